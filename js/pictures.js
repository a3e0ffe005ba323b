// With Nodes 2.0 ComfyUI takes whatever a node with a video input shows for a video, unless it is told what it is.
import { app } from "../../scripts/app.js";

const SHOW_PICTURES = ["FaceDetectVideo"];

app.registerExtension({
  name: "FaceLoom.pictures",
  nodeCreated(node) {
    if (SHOW_PICTURES.includes(node.comfyClass)) node.previewMediaType = "image";
  },
});
