// A node whose result ComfyUI kept is not run again: its text then comes only as an output, which the canvas does not show by itself.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

/** The node of an execution id, "7" or, inside of a subgraph, "3:7". */
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph;
  let node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node;
}

api.addEventListener("executed", ({ detail }) => {
  const text = detail.output?.text?.join("\n").replaceAll("\n", "  \n"); // lines stay apart where it is shown as Markdown
  if (text && nodeOf(detail.node)?.constructor.nodeData?.category === "FaceLoom") {
    api.dispatchCustomEvent("progress_text", { nodeId: String(detail.node), text });
  }
});
