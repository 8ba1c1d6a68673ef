"""BERT and RoBERTa: post-norm, the class token first."""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

STACKS = (
    Stack(
        name="text",
        owners=("bert", "roberta"),
        blocks="encoder.layer",
        attention=(
            AttentionNames(
                module="attention.self",
                q="attention.self.query",
                k="attention.self.key",
                v="attention.self.value",
                out="attention.output.dense",
                norm=None,
                after="attention.output.LayerNorm",
                head_width="attention_head_size",
            ),
        ),
        ffn=(
            FfnNames(
                up="intermediate.dense",
                down="output.dense",
                norm=None,
                after="output.LayerNorm",
                act="intermediate.intermediate_act_fn",
            ),
        ),
        patch_convolution=(),
        final_norm=(),
        prefix=1,
        modality="text",
    ),
)
