"""BERT, RoBERTa and those that derive from them: post-norm, the class token first. DistilBERT has such blocks by other names, and
some of the later ones are pre-norm (XLM-R XL, RoBERTa-PreLayerNorm).

As decoders of images or texts they have cross-attention too.
"""

import dataclasses

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

_CROSS = AttentionNames(
    module="crossattention.self",
    q="crossattention.self.query",
    k="crossattention.self.key",
    v="crossattention.self.value",
    out="crossattention.output.dense",
    norm=None,
    after="crossattention.output.LayerNorm",
    head_width="attention_head_size",
)

_TEXT = Stack(
    name="text",
    owners=(
        "bert",
        "roberta",
        "xlm-roberta",
        "camembert",
        "data2vec-text",
        "ernie",
        "roc_bert",
        "chinese_clip_text_model",
    ),
    blocks="encoder.layer",
    attention=(_ATTENTION,),
    ffn=(_FFN,),
    patch_convolution=(),
    final_norm=(),
    prefix=1,
    modality="text",
)

STACKS = (
    Stack(
        name="decoder",
        owners=("bert", "roberta", "xlm-roberta", "camembert"),
        blocks="encoder.layer",
        attention=(_ATTENTION,),
        cross=_CROSS,
        context=("encoder", "vision", "text"),
        ffn=(_FFN,),
        patch_convolution=(),
        final_norm=(),
        causal=True,
        readout="last",
        modality="text",
    ),
    _TEXT,
    dataclasses.replace(_TEXT, owners=("altclip_text_model",), blocks="encoder.layers"),
    dataclasses.replace(_TEXT, owners=("electra",), passed=("embeddings_project",)),  # embeddings may be narrower
    *(
        dataclasses.replace(
            _TEXT,
            owners=(owner,),
            attention=(dataclasses.replace(_ATTENTION, norm=before, after=None),),
            ffn=(dataclasses.replace(_FFN, norm=between, after=None),),
            final_norm=(last,),
        )
        for owner, before, between, last in (
            ("xlm-roberta-xl", "attention.self_attn_layer_norm", "LayerNorm", "encoder.LayerNorm"),
            ("roberta-prelayernorm", "attention.LayerNorm", "intermediate.LayerNorm", "LayerNorm"),
        )
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
