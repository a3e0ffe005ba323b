"""Face restoration networks that come as ONNX files; what differs between them is in their contract."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import FaceLoomError
from ..files.catalogue import NetContract, as_net_contract, catalogue
from ..files.contents import Contents
from ..files.onnx import Port
from ..progress import Progress, silent
from ..runtime.input import describe_ports, find_image_input, from_network_output, to_network_input
from ..runtime.method import Loading, Method, has_suffix
from ..runtime.onnx import OnnxModel, open_session
from .square import restore_squares

# The row of the catalogue whose contract a file is held to that the catalogue does not know.
USUAL_ROW = "gfpgan_1.4"


class OnnxRestorer:
    """A ``Restorer`` around one network. Make it with ``load_restorer``.

    has_fidelity: whether the network can choose between detail and likeness to its input.
    """

    def __init__(self, name: str, model: OnnxModel, contract: NetContract, exact: bool = True) -> None:
        self.name = name
        self.model = model
        self._input, self.contract = find_image_input(model, contract, exact)
        if self.contract.size is None:
            raise FaceLoomError(f"{model.name} does not say how large its pictures are; give it the name of a restorer of the catalogue.")
        self._fidelity = _fidelity_port(model, self._input, contract.fidelity)
        self._output = _picture_output(model, self.contract)

    @property
    def has_fidelity(self) -> bool:
        return self._fidelity is not None

    def restore(self, crops: torch.Tensor, fidelity: float, progress: Progress = silent, points: np.ndarray | None = None
                ) -> torch.Tensor:
        """Restore crops ``[N, S, S, 3]`` to ``[N, T, T, 3]``, 0..1; see ``Restorer``."""
        def run(squares: torch.Tensor, progress: Progress) -> torch.Tensor:
            return self._run_network(squares, fidelity, progress)

        return restore_squares(run, crops, self.contract.fixed_size, self.contract.template, points, progress)

    def _run_network(self, squares: torch.Tensor, fidelity: float, progress: Progress) -> torch.Tensor:
        """Run squares ``[n, E, E, 3]`` through the network: ``[n, T, T, 3]`` float32 0..1."""
        feeds = {self._input.name: to_network_input(squares, self.contract)}
        if self._fidelity is not None:
            feeds[self._fidelity.name] = torch.full((1,) * len(self._fidelity.shape or ()), fidelity, dtype=torch.float64)
        output = self.model.run(feeds, progress)[self._output]
        if output.ndim != 4 or len(output) != len(squares):
            raise FaceLoomError(f"{self.name} should return one picture per face, but returns {describe_ports(self.model.outputs)}.")
        return from_network_output(output, self.contract).clamp(0, 1)


def _fidelity_port(model: OnnxModel, picture: Port, name: str | None) -> Port | None:
    """Find the input for the fidelity, one number: by the catalogue's name, or as the only one beside the picture. None: there is none."""
    rest = [port for port in model.inputs if port is not picture]
    if [port for port in rest if port.shape is None or any(size not in (None, 1) for size in port.shape)] or len(rest) > 1:
        raise FaceLoomError(f"{model.name} takes more than a face restorer does: {describe_ports(model.inputs)}.")
    if name and not rest:
        raise FaceLoomError(f"{model.name} has lost its fidelity input {name}; get the model again.")
    return rest[0] if rest else None


def _picture_output(model: OnnxModel, contract: NetContract) -> int:
    """Return the number of the first output that can be a picture; some exports also return what the network made on the way."""
    place = 1 if contract.layout == "nchw" else 3
    for number, port in enumerate(model.outputs):
        if port.shape is None or (len(port.shape) == 4 and port.shape[place] in (None, 3)):
            return number
    raise FaceLoomError(f"{model.name} should return a colour picture, but returns {describe_ports(model.outputs)}.")


def _open(file: Contents, loading: Loading) -> OnnxRestorer:
    model = open_session(file.path, providers=loading.providers, kind="restorer")
    contract = loading.contract or (file.row.contract if file.row else None)
    return OnnxRestorer(file.name, model, as_net_contract(contract or catalogue()[USUAL_ROW].contract), exact=contract is not None)


METHOD = Method("ONNX", kind="restorer", suffixes=(".onnx",), recognizes=has_suffix(".onnx"), open=_open)
