"""Cut a text into fixed token sequences."""

from pathlib import Path
from typing import Literal

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.data.conversations import ChatTemplate
from ltpipe.data.documents import Part, read_documents
from ltpipe.data.sequences import Bos, Protocol, cut_sequences
from ltpipe.runtime import stage
from ltpipe.runtime.files import check_file
from ltpipe.runtime.sources import Source


def main(
    *,
    source: str,
    tokenizer: Path,
    sequence_length: int,
    output: Path,
    num_sequences: int | Literal["all"] = "all",
    name: str = "text",
    files: str = "**/*",
    field: str = "text",
    documents: Part = "all",
    separator: str = "\n\n",
    protocol: Protocol = "documents",
    bos: Bos = "auto",
) -> int:
    """Cut a text into fixed token sequences.

    Args:
        source: .txt, .jsonl, .json (each also with .gz) or .parquet file, folder of such files,
            package:module/path/inside, or hub:owner/name@revision.
        tokenizer: tokenizer.json of a canonical checkpoint folder.
        sequence_length: tokens per sequence.
        output: safetensors file to write.
        num_sequences: number of sequences, evenly spaced over the whole text, or all.
        name: the text's name in the configuration, for messages.
        files: pattern of the files to read in a folder.
        field: key or column with the text, or chat messages, in .jsonl, .json and .parquet.
        documents: all documents, or those of one part.
        separator: text placed after each document.
        protocol: documents (each tokenised by itself) or wikitext2 (the protocol of the literature: joined, tokenised
            once, all sequences).
        bos: which sequences start with the tokenizer's special tokens, usually BOS: each window (all), never, or auto
            (as the model's tokenizer and the protocol do).
    """
    check_file(tokenizer)
    checkpoint = Checkpoint.open(tokenizer.parent)
    words, template = checkpoint.verified(tokenizer.name), ChatTemplate(checkpoint)
    texts = read_documents(Source(source, f"data.{name}.source"), files, field, documents, template)
    count = None if num_sequences == "all" else num_sequences
    sequences = cut_sequences(texts, words, sequence_length, count, separator, f"data.{name}", protocol, bos)
    sequences.write(output)
    stage.say(
        f"{name}: {len(sequences.input_ids)} of {sequences.available} sequences, {sequences.documents} documents, "
        f"BOS: {sequences.bos}"
    )
    return sequences.input_ids.nbytes


if __name__ == "__main__":
    stage.run(main)
