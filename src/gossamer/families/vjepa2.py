"""V-JEPA 2: pre-norm over the patches of a video, queries and keys rotated by frame, row and column, counted inside of each block.

Its predictor and the pooler of its classifier are left as they are. A bare VJEPA2Model runs the predictor for nothing, unless it is
called with `skip_predictor`.
"""

import dataclasses

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_BARE = Stack(
    name="vision",
    owners=("vjepa2",),
    blocks="encoder.layer",
    aside=("predictor.layer",),
    attention=(
        AttentionNames(
            module="attention",
            q="attention.query",
            k="attention.key",
            v="attention.value",
            out="attention.proj",
            norm="norm1",
            head_width="attention_head_size",
            bias="attention.grid_size",
        ),
    ),
    ffn=(FfnNames(up="mlp.fc1", down="mlp.fc2", norm="norm2"),),
    patch_convolution=(),  # a convolution over frames
    final_norm=("encoder.layernorm",),
    readout="mean",
    returns_tuple=2,
    closed=False,
)

STACKS = (
    _BARE,
    dataclasses.replace(
        _BARE,
        owners=("transformers.VJEPA2ForVideoClassification",),
        blocks="vjepa2.encoder.layer",
        aside=("vjepa2.predictor.layer", "pooler.self_attention_layers"),
        final_norm=("vjepa2.encoder.layernorm",),
    ),
)
