"""Load a model from any source and write it as a canonical checkpoint folder."""

import os
from pathlib import Path
from typing import Literal

from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.runtime import stage
from ltpipe.runtime.sources import Source
from ltpipe.streaming.guard import judge


def main(
    *,
    source: str,
    output: Path,
    name: str = "model",
    tokenizer: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
) -> int:
    """Load a model from any source and write it as a canonical checkpoint folder.

    Args:
        source: hub:owner/name@revision, package:module/path/inside, or the path of a folder or .gguf file.
        output: folder to write.
        name: the model's name in the configuration, for messages.
        tokenizer: source of the tokenizer, if it is not beside the model.
        dtype: dtype to store the weights in; auto keeps the source's (GGUF gives float32).
    """
    words = Source(tokenizer, f"models.{name}.tokenizer") if tokenizer else None
    shared = "SNAKEMAKE_OUTPUT_CACHE" in os.environ  # other studies, with other files, may use the result
    where = Source(source, f"models.{name}.source")
    manifest = load_checkpoint(where, words, dtype, output, judge, in_place=not shared)
    stage.say(f"{name}: {manifest.architecture}, {manifest.parameters:,} parameters, {manifest.fingerprint[:12]}")
    return manifest.nbytes


if __name__ == "__main__":
    stage.run(main)
