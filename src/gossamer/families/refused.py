"""Models that no description of a stack carries, and why, in words for their users.

The key is what would be among a `Stack`'s owners. Tuners of peft, full tuning and probes need no description.
"""

from gossamer.anatomy.stack import Stack

STACKS: tuple[Stack, ...] = ()

_POOLING = "blocks in which tokens are pooled, and widths that change within a block: no stream runs through them"
_REDUCED = "its attention reads keys and values of a coarser map than its queries, made by a convolution"
_FUSED = (
    "one Linear makes the hidden states of its FFN, queries, keys and values at once, and its attention is no module: nothing can "
    "be said of one branch alone"
)
_MIXED = "every few of its blocks read the image by cross-attention alone, between blocks of another make, so it has no one stack"
_CHANNELS = "its attention mixes channels and not tokens: there are no keys to which a prompt could be one more"

REFUSED: dict[str, str] = {
    "albert": "it runs one block again and again, so what is placed in one would be placed in all",
    "longt5": "its encoder attends to chunks of a text that it cuts itself, where no token can be let in or remembered",
    "mvitv2": _POOLING,
    "timm.MultiScaleVit": _POOLING,
    "pvt": _REDUCED,
    "pvt_v2": _REDUCED,
    "timm.PyramidVisionTransformerV2": _REDUCED,
    "segformer": _REDUCED,
    "timm.Xcit": _CHANNELS,
    "timm.DaViT": _CHANNELS,
    "florence_vision": "every second of its blocks mixes channels and not tokens, and all of them hold convolutions",
    "groupvit_vision_model": "between its stages patches become groups, by an assignment that is learned, and other tokens come in",
    "timm.NextViT": "convolutional blocks stand between those that attend, whose keys are pooled and whose tokens go on as a map",
    "timm.Sequencer2d": "an LSTM mixes its tokens, and no attention: there are no keys to which a prompt could be one more",
    "timm.VOLO": "its first blocks weigh the neighbours of a patch by the patch alone, without keys",
    "timm.TinyVit": "convolutions stand inside of its blocks, between attention and FFN, and need each token at its place",
    "timm.ParallelScalingBlock": _FUSED,
    "timm.DiffParallelScalingBlock": _FUSED,
    "timm.ParallelThingsBlock": "each of its blocks has several attentions and several FFNs beside each other",
    "mllama_text_model": _MIXED,
    "lxmert": "its blocks read both modalities with the same weights, and are called several times in one pass",
    "bridgetower": "its towers are built of nn.MultiheadAttention, whose output projection is never called as a module",
    "convnext": "it is a convolutional network, no transformer",
    "timm.ConvNeXt": "it is a convolutional network, no transformer",
    "resnet": "it is a convolutional network, no transformer",
    "timm.ResNet": "it is a convolutional network, no transformer",
}
