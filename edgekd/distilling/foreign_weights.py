"""The one place where a torch checkpoint of somebody else is read: weights only, asked for by name, never a way around it.

`.pt` and `.pth` files are pickles, and a pickle is a program. torch's `weights_only` reader runs none of it but what rebuilds
tensors; where it refuses a file, so do we. Everything else in edgekd reads safetensors, which is what this leaves.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import IntegrityError, UsageError
from edgekd.core.store import disk_errors, sha256_of, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

USUAL_KEYS = ("state_dict", "model", "model_state_dict", "model_ema", "state_dict_ema", "teacher", "student", "backbone", "net")
SUFFIX = ".safetensors"
MAX_BYTES = 8 << 30
_LISTED = 20


def convert(source: Path, target: Path, *, key: str | None = None, strip: str = "", overwrite: bool = False) -> list[str]:
    """Read a torch checkpoint's weights and write them as safetensors; return what was written, in lines for a person.

    `key` says where the weights are if they are not the whole file, as in `state_dict` or `model.ema`; `strip` is taken off the
    front of every name that begins with it. Raises `UsageError` if the weights are not where they were said to be, with a list
    of what is there, and `IntegrityError` for a file that holds more than weights.
    """
    if target.suffix != SUFFIX:
        raise UsageError(f"{target}: is not called *{SUFFIX}, which is what is written")
    if target.exists() and not overwrite:
        raise UsageError(f"{target}: is already there; nothing was written", mend="choose another name, or add --overwrite")
    whole = _read(source)
    state = _named(_weights(source, whole, key), source, strip)
    import safetensors.torch

    about = {"format": "pt", "from": source.name, "from_sha256": sha256_of(source)}
    content = safetensors.torch.save(state, metadata=about)
    with disk_errors(target, size_bytes=len(content)):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, content)
    numbers = sum(tensor.numel() for tensor in state.values())
    return [
        f"wrote {target}: {len(state)} tensors, {numbers:,} numbers, {len(content) / 1e6:.1f} MB",
        f"sha256 {sha256_of(target)}",
    ]


def _read(source: Path) -> Any:
    import torch
    from torch._weights_only_unpickler import UnpicklingError  # type: ignore[attr-defined]

    if not source.is_file():
        raise UsageError(f"{source}: there is no such file")
    if source.stat().st_size > MAX_BYTES:
        raise IntegrityError(f"{source}: is larger than {MAX_BYTES} bytes")
    _refuse_packed(source)
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise IntegrityError(
            f"{source}: holds more than weights, and reading the rest could run code: {_reason(error)}",
            mend="ask whoever made it for a state_dict, or convert it on a machine where you trust it",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        raise IntegrityError(f"{source}: is not a torch checkpoint that can be read: {_reason(error)}") from error


def _refuse_packed(source: Path) -> None:
    """Refuse an archive whose contents are compressed: torch never writes one, and a few bytes could become terabytes."""
    if not zipfile.is_zipfile(source):
        return
    try:
        with zipfile.ZipFile(source) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise IntegrityError(f"{source}: is a broken zip archive: {error}") from error
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos) or sum(i.file_size for i in infos) > MAX_BYTES:
        raise IntegrityError(f"{source}: is compressed or too large; no checkpoint that torch wrote is")


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "Unsupported" in line or "GLOBAL" in line), lines[0] if lines else "")
    return told.replace("weights_only=False", "...")[:200] or type(error).__name__


def _weights(source: Path, whole: Any, key: str | None) -> "Mapping[str, Tensor]":
    found = whole
    for step in key.split(".") if key else ():
        if not isinstance(found, Mapping) or step not in found:
            raise UsageError(f"{source}: there is no {key!r} in it. It holds:{_listing(whole)}", mend=_advice(whole))
        found = found[step]
    if not _is_state(found):
        where = f"what it holds under {key!r}" if key else "the file"
        raise UsageError(f"{source}: {where} is not weights by name. It holds:{_listing(found)}", mend=_advice(found, key))
    return found  # type: ignore[no-any-return]


def _is_state(value: Any) -> bool:
    import torch

    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _listing(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"\n  {_described(value)}"
    lines = [f"\n  {str(name)[:80]}: {_described(inner)}" for name, inner in list(value.items())[:_LISTED]]
    return "".join(lines) + (f"\n  and {len(value) - _LISTED} more" if len(value) > _LISTED else "")


def _described(value: Any) -> str:
    if _is_state(value):
        return f"weights, {len(value)} tensors"
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}"
    return f"a tensor {tuple(value.shape)}" if hasattr(value, "numel") else type(value).__name__


def _advice(value: Any, key: str | None = None) -> str:
    inside = [str(name) for name, inner in value.items() if _is_state(inner)] if isinstance(value, Mapping) else []
    inside.sort(key=lambda name: (USUAL_KEYS.index(name) if name in USUAL_KEYS else len(USUAL_KEYS), name))
    prefix = f"{key}." if key else ""
    return f"say which: --key {prefix}{inside[0]}" if inside else "this is no checkpoint of weights"


def _named(state: "Mapping[str, Tensor]", source: Path, strip: str) -> "dict[str, Tensor]":
    import torch

    named: dict[str, Tensor] = {}
    for name, tensor in state.items():
        short = name.removeprefix(strip)
        if short in named or not short:
            raise UsageError(f"{source}: without {strip!r} two tensors are called {short!r}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise UsageError(f"{source}: {name} is sparse, quantised or complex, which safetensors cannot hold")
        named[short] = tensor.detach().clone().contiguous()  # names that share memory are written one by one
    return named
