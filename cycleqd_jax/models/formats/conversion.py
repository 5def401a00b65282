"""Commands that turn weights that are not read into safetensors, for messages."""

import pathlib
import shlex
import sys

# File -> program that writes its safetensors beside it.
_PROGRAMS = {
    "adapter_model.bin": (
        "import sys, torch; from safetensors.torch import save_file; f = sys.argv[1]; "
        'w = torch.load(f + "/adapter_model.bin", "cpu", weights_only=True); '
        "save_file({k: v.contiguous().clone() for k, v in w.items()}, "
        'f + "/adapter_model.safetensors", {"format": "pt"})'
    ),
    "pytorch_model.bin": (
        "import sys; from transformers import AutoModelForCausalLM as M; "
        'f = sys.argv[1]; M.from_pretrained(f, dtype="auto").save_pretrained(f)'
    ),
}


def how_to_convert(folder: pathlib.Path) -> str:
    """The remedy for a folder without safetensors weights; "" where none is known.

    Args:
      folder: of a model or of an adapter.

    Returns:
      The end of a sentence: "; convert adapter_model.bin with: ...".
    """
    for name, program in _PROGRAMS.items():
        if (folder / name).is_file() or (folder / f"{name}.index.json").is_file():
            command = shlex.join([sys.executable, "-c", program, str(folder)])
            return f"; convert {name} with (needs pip install torch): {command}"
    for file in sorted(folder.glob("*.gguf")):
        return f"; as a base model, pass the file {file} itself"
    return ""
