"""A training on disk: whole files or none, nothing in them that runs, and none mistaken for another."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.data import hash_of

FORMAT = "gradscope training 1"
History = list[dict[str, float]]


def save(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.SGD,
    configuration: dict[str, Any],
    history: History,
) -> None:
    """Write weights, buffers, momentum, configuration and history as one safetensors file.

    The file appears whole, in place of the former one: it is written beside it and moved, so that an
    interruption at any time leaves the former one.
    """
    from safetensors.torch import save as serialise

    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, weight in model.named_parameters():
        buffer = optimiser.state[weight].get("momentum_buffer") if weight in optimiser.state else None
        if buffer is not None:
            tensors[f"momentum.{name}"] = buffer
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    facts = json.dumps({"configuration": configuration, "history": history})
    content = serialise(
        tensors, metadata={"format": FORMAT, "facts": facts, "sha256": _sha256(facts, tensors)}
    )
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def resume(
    path: Path, model: nn.Module, optimiser: torch.optim.SGD, configuration: dict[str, Any]
) -> History:
    """Load what `save` wrote into model and optimiser, and return the history so far.

    Raises:
        ValueError: The file is damaged, of another kind, or of another configuration; what differs is
            named.
    """
    tensors, facts = _read(path)
    kept = facts["configuration"]
    differing = [name for name in configuration if kept.get(name) != configuration[name]]
    if differing:
        told = ", ".join(
            f"another {name}"
            if name in ("data", "model")
            else f"{name}={kept.get(name)} (asked: {configuration[name]})"
            for name in differing
        )
        raise ValueError(
            f"The checkpoint {path} is of another training: {told}. Give another path, or delete it."
        )
    prefix = "model."
    model.load_state_dict({name[len(prefix) :]: tensors[name] for name in tensors if name.startswith(prefix)})
    for name, weight in model.named_parameters():
        if f"momentum.{name}" in tensors:
            optimiser.state[weight]["momentum_buffer"] = tensors[f"momentum.{name}"].to(weight.device)
    history: History = facts["history"]
    return history


def fingerprint(model: nn.Module) -> str:
    """Hash of what a model is made of (modules, options, tensors' names and shapes), not of its weights."""
    entries = [f"{name} {list(value.shape)} {value.dtype}" for name, value in model.state_dict().items()]
    return hashlib.sha256("\n".join([repr(model), *entries]).encode()).hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = sorted(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}). {_REMEDY}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is a safetensors file, but no training checkpoint of this gradscope: its format is "
            f"{metadata.get('format')!r}, not {FORMAT!r}. {_REMEDY}"
        )
    if metadata.get("sha256") != _sha256(metadata.get("facts", ""), tensors):
        raise ValueError(
            f"{path} is damaged: its content does not have the hash it was written with. {_REMEDY}"
        )
    return tensors, json.loads(metadata["facts"])


_REMEDY = "Give another path, or delete it to start anew."


def _sha256(facts: str, tensors: dict[str, Tensor]) -> str:
    names = sorted(tensors)
    whole = "\n".join([facts, *names, hash_of(tensors[name] for name in names)])
    return hashlib.sha256(whole.encode()).hexdigest()
