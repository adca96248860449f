"""Save Embedding: a token that was found, as the file that any prompt can name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..host import embedding_files
from ..host.api import io, schema
from ..host.sampling import tokens

EmbeddingSocket = io.Custom("PROVOKE_EMBEDDING")


@dataclass(frozen=True)
class Embedding:
    """What travels on the socket.

    vectors: by the keys of an embedding file, n D each, float32, on the CPU. name: in prompts. prompts: those that it
    was searched with; placeholder: what it stands for there.
    """

    vectors: dict[str, Tensor]
    name: str
    prompts: tuple[str, ...]
    placeholder: str

    def said(self, name: str) -> list[str]:
        """The prompts with `embedding:name` in them."""
        return [tokens.said(prompt, self.placeholder, name) for prompt in self.prompts]


class SaveEmbedding(io.ComfyNode):
    """Into the host's first embeddings folder, as safetensors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeSaveEmbedding",
            display_name="Save Embedding",
            category="Provoke/search",
            description="Saves a learned token as an ordinary embedding (safetensors) in models/embeddings: any prompt "
            "of any workflow can say embedding:name from then on. Nothing is ever overwritten: a second one of a name "
            "becomes name-2.",
            search_aliases=["provoke", "textual inversion", "export embedding", "safetensors", "save token"],
            is_output_node=True,
            inputs=[
                EmbeddingSocket.Input("embedding", tooltip="From Learn Token."),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Its name in prompts: letters, digits, '-', '_', '.', and '/' for folders. Empty: the name "
                    "that the token was given.",
                ),
            ],
            outputs=[
                io.String.Output("name", tooltip="The name that it was saved under."),
                io.String.Output(
                    "prompt", is_output_list=True, tooltip="Its prompts, with embedding:name, for CLIP Text Encode."
                ),
                io.String.Output("report", tooltip="Where it was saved, and for which text encoders."),
            ],
        )

    @classmethod
    def execute(cls, embedding: Embedding, name: str) -> io.NodeOutput:
        path, said = embedding_files.save(embedding.vectors, name.strip() or embedding.name)
        sizes = ", ".join(f"{key} {' x '.join(map(str, v.shape))}" for key, v in embedding.vectors.items())
        return io.NodeOutput(said, embedding.said(said), f"saved as {path.name} ({sizes}): embedding:{said}")
