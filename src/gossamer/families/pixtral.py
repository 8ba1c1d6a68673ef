"""Pixtral's vision tower (Mistral 3, LightOnOCR): the patches of all images are one sequence, which a mask divides."""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

STACKS = (
    Stack(
        name="vision",
        owners=("pixtral",),
        blocks="transformer.layers",
        attention=(
            AttentionNames(
                module="attention",
                q="attention.q_proj",
                k="attention.k_proj",
                v="attention.v_proj",
                out="attention.o_proj",
                norm="attention_norm",
            ),
        ),
        ffn=(
            FfnNames(
                up="feed_forward.up_proj",
                gate="feed_forward.gate_proj",
                down="feed_forward.down_proj",
                norm="ffn_norm",
                act="feed_forward.act_fn",
            ),
        ),
        patch_convolution=("patch_conv",),
        final_norm=(),
        patch_rotary=True,
        packed="sequence",
        readout="mean",
    ),
)
