"""`nasplug.export`: the winner of a run as a file for whoever has no nasplug."""

from __future__ import annotations

import json
import runpy
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch.utils._pytree import tree_leaves, tree_map

from nasplug._version import __version__
from nasplug.deploy.source import Writer
from nasplug.deploy.winner import Network, Winner
from nasplug.errors import NasplugError, lacking, unknown
from nasplug.files import replacing
from nasplug.kernel.selection import Selection
from nasplug.kernel.space import Space
from nasplug.kernel.tree import jsonable
from nasplug.nn.weights import load_weights
from nasplug.run.directory import write_json

CLOSE = 1e-5  # by how much the outputs of a file may differ from the network's, relative to 1
NOTES = "nasplug"  # under which what a file says of itself stands in it


def export(
    run: Selection | Path | str,
    format: str,
    out: Path | str,
    *,
    space: Space | None = None,
    model: Callable[[], Any] | str | None = None,
) -> dict[str, Any]:
    """Write the winner of a finished run to a file: as it was retrained, if it was, or else with
    the weights that scored it.

    format: "onnx"; "export", torch.export's .pt2; "state", the weights in safetensors and JSON with
    the arch beside them; "python", one file that needs torch alone, and the weights beside it. Each
    is read again and computes what the network does, or it is not written. Each says where it comes
    from: search, trial, retraining, versions and the digest of the data.

    Returns {"files": [...], "format", "max_difference"}. NasplugError for whatever the user can
    mend.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    out = Path(out)
    network = Winner.of(run, space, model).network()
    suffix, write = FORMATS[format]
    if out.suffix != suffix:
        raise NasplugError(f"a file of format {format} ends with {suffix}, as {out.stem}{suffix}")
    beside = [out.with_suffix(extra) for extra in BESIDE.get(format, ())]
    for file in (out, *beside):
        if file.exists():
            raise NasplugError(f"{file} exists: give another --out, or delete it")
    if not out.parent.is_dir():
        raise NasplugError(f"there is no folder {out.parent} for {out.name}")
    with tempfile.TemporaryDirectory(prefix="nasplug-") as folder:
        draft = Path(folder) / out.name
        difference = write(network, draft)
        for file in (*beside, out):
            with replacing(file) as partial:
                partial.write_bytes(draft.with_name(file.name).read_bytes())
    files = [str(file) for file in (out, *beside)]
    return {"files": files, "format": format, "max_difference": difference}


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch as a network is called with it: a tuple by position, a dict by name."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def to_onnx(network: Network, file: Path) -> float:
    try:
        onnx, runtime = import_module("onnx"), import_module("onnxruntime")
        import_module("onnxscript")
    except ImportError as error:
        raise lacking("format onnx", error) from None
    program = torch.onnx.export(_exported(network), dynamo=True, verbose=False, external_data=False)
    assert program is not None
    program.save(file, external_data=False)
    written = onnx.load(file)
    onnx.helper.set_model_props(written, {NOTES: json.dumps(notes(network))})
    onnx.save(written, file)
    onnx.checker.check_model(file)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(*args: Any, **kwargs: Any) -> Any:
        names = [one.name for one in session.get_inputs()]
        given = [leaf.numpy() for leaf in tree_leaves((args, kwargs))]
        return [torch.tensor(x) for x in session.run(None, dict(zip(names, given, strict=True)))]

    return check(network, run, "onnxruntime")


def to_export(network: Network, file: Path) -> float:
    torch.export.save(_exported(network), file, extra_files={NOTES: json.dumps(notes(network))})
    return check(network, torch.export.load(file).module(), "what torch.export.load reads")


def to_state(network: Network, file: Path) -> float:
    save_model(network.model, str(file), {NOTES: json.dumps(notes(network))})
    write_json(file.with_suffix(".json"), notes(network))
    return check(network, load_weights(network.space.build(network.arch), file), "what is read")


def to_python(network: Network, file: Path) -> float:
    if not file.stem.isidentifier():
        raise NasplugError(f"{file.name} cannot be imported: its name must be one of Python's")
    args, kwargs = arguments(network.example)
    writer = Writer(network.model, args, kwargs)
    about = notes(network)
    doc = (
        f"{about['choices']}: found by {about['search']['method']} on {about['search']['problem']}."
    )
    file.write_text(writer.write(doc, json.dumps(about), __version__, file.stem))
    torch.save(writer.tensors, file.with_suffix(".pt"))
    try:
        read = runpy.run_path(str(file))["load"]()
    except Exception as error:
        raise NasplugError(f"the network cannot be written as Python: {error}") from error
    return check(network, read, "the Python file")


FORMATS: dict[str, tuple[str, Callable[[Network, Path], float]]] = {
    "onnx": (".onnx", to_onnx),
    "export": (".pt2", to_export),
    "state": (".safetensors", to_state),
    "python": (".py", to_python),
}
BESIDE = {"state": (".json",), "python": (".pt",)}  # what else is written


def notes(network: Network) -> dict[str, Any]:
    """What a file says of where it comes from."""
    found: dict[str, Any] = jsonable({**network.about, "torch": str(torch.__version__)}, NOTES)
    return found


def check(network: Network, other: Callable[..., Any], what: str) -> float:
    """The largest difference between the outputs of a network and of what was made of it, on random
    inputs; NasplugError if that is not small."""
    args, kwargs = arguments(network.example)
    with torch.no_grad():
        wanted = tree_leaves(network.model(*args, **kwargs))
        found = tree_leaves(other(*args, **kwargs))
    scale = max(1.0, *(leaf.abs().max().item() for leaf in wanted))
    pairs = zip(wanted, found, strict=True)
    difference = max((one - another).abs().max().item() for one, another in pairs)
    if not difference <= CLOSE * scale:
        raise NasplugError(
            f"{what} does not compute what the network does: outputs differ by {difference:.2g}; "
            "another format may do"
        )
    return difference


def _exported(network: Network) -> torch.export.ExportedProgram:
    """The network as torch.export has it, for batches of any size where it takes them."""
    args, kwargs = arguments(network.example)
    shapes = tree_map(lambda leaf: {0: torch.export.Dim.AUTO}, (args, kwargs))
    try:
        return torch.export.export(
            network.model, args, kwargs, dynamic_shapes=shapes[1] if kwargs else shapes[0]
        )
    except Exception as error:
        said = str(error).strip().splitlines()[0]
        raise NasplugError(
            f"torch.export cannot follow the network: {type(error).__name__}: {said}; format state "
            "needs no more than its weights"
        ) from error
