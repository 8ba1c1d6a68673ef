"""BERT, RoBERTa and those that derive from them: post-norm, the class token first. DistilBERT has such blocks by other names."""

from gossamer.anatomy.stack import AttentionNames, FfnNames, Stack

_ATTENTION = AttentionNames(
    module="attention.self",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    out="attention.output.dense",
    norm=None,
    after="attention.output.LayerNorm",
    head_width="attention_head_size",
)
_FFN = FfnNames(
    up="intermediate.dense",
    down="output.dense",
    norm=None,
    after="output.LayerNorm",
    act="intermediate.intermediate_act_fn",
)

STACKS = (
    Stack(
        name="text",
        owners=("bert", "roberta", "xlm-roberta", "camembert", "electra", "data2vec-text", "ernie"),
        blocks="encoder.layer",
        attention=(_ATTENTION,),
        ffn=(_FFN,),
        patch_convolution=(),
        final_norm=(),
        prefix=1,
        modality="text",
    ),
    Stack(
        name="text",
        owners=("distilbert",),
        blocks="transformer.layer",
        attention=(
            AttentionNames(
                module="attention",
                q="attention.q_lin",
                k="attention.k_lin",
                v="attention.v_lin",
                out="attention.out_lin",
                norm=None,
                after="sa_layer_norm",
                head_width="attention_head_size",
            ),
        ),
        ffn=(FfnNames(up="ffn.lin1", down="ffn.lin2", norm=None, after="output_layer_norm", act="ffn.activation"),),
        patch_convolution=(),
        final_norm=(),
        prefix=1,
        modality="text",
    ),
)
