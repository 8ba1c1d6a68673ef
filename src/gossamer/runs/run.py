"""Every choice of one training run, as dataclasses that YAML, the command line and help are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from gossamer.documents import MOST, expanded
from gossamer.errors import UserError
from gossamer.pixels import MAX_SIZE

MOST_WORKERS = 256
BATCH = 64  # items that are computed at a time where nothing is trained


@dataclass(frozen=True, kw_only=True)
class Model:
    """The pre-trained backbone.

    Args:
        name: a model of the zoo such as dinov2-small, a local folder, or a model of the Hugging Face hub; of what draws images
            diffusion-small-desk, or the folder of a pipeline of diffusers.
        revision: branch, tag or commit of the hub. None: the newest.
        head: what the classifier reads. published: what the model's own classification class reads (DINOv2: the class token
            and the mean of the patches); plain: what its family reads out, for a ViT the class token; words: of a pair of towers
            (CLIP), no head: the class whose words lie nearest to the image.
        vision: for texts about images, the vision tower that the language model `name` is composed with, such as dinov2-small.
            None: `name` reads images and texts itself, as ViLT and METER do.
        vision_revision: that of the tower.
    """

    name: str
    revision: str | None = None
    head: Literal["published", "plain", "words"] = "published"
    vision: str | None = None
    vision_revision: str | None = None

    def __post_init__(self) -> None:
        for name in ("name", "vision"):
            value = getattr(self, name)
            _require(value is None or value.strip() != "", f"model.{name} is empty; it is a model's name or folder")


@dataclass(frozen=True, kw_only=True)
class Images:
    """How images are prepared.

    Args:
        size: width and height in pixels. None: as the model was published.
        resize: shorter-side keeps the proportions and cuts out the centre; direct stretches the whole image to the square. None: as
            published.
        mean: of red, green and blue, subtracted. None: as published.
        std: of red, green and blue, divided by. None: as published.
        augment: random changes of training images, of random-crop, horizontal-flip and vertical-flip; of images with masks, of
            random-crop (after a change of scale, see masks.scale), horizontal-flip and colours.
    """

    size: int | None = None
    resize: Literal["shorter-side", "direct"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    augment: list[Literal["random-crop", "horizontal-flip", "vertical-flip", "colours"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = self.size
        _require(size is None or 1 <= size <= MAX_SIZE, f"images.size must be 1 to {MAX_SIZE} pixels, got {size}")
        _finite("images", self, "mean", "std")
        _require(self.std is None or min(self.std) > 0, f"images.std must be above 0, got {self.std}")
        _require(len(set(self.augment)) == len(self.augment), f"images.augment names one twice: {self.augment}")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """How texts about images are read and answered, or ranked; labelled images have none.

    Args:
        answers: classes: one of the answers that the set knows, by a head; text: written by the language model. None: text where
            the language model was published as one that writes (LLaMA, T5, BART), else classes.
        tokens: longest text that a head is put on; longer ones are cut, as the published protocols do.
        prompt: what a language model that writes is given, {text} being the text. None: "Question: {text}\\nAnswer:", and for
            images with captions "caption:", as VL-T5 (Cho et al., arXiv 2102.02779).
        answer_tokens: longest answer that is written.
        negatives: for captions that are ranked, false texts that the true one of an image is told from. ViLT and METER: 15.
    """

    answers: Literal["classes", "text"] | None = None
    tokens: int = 40
    prompt: str | None = None
    answer_tokens: int = 10
    negatives: int = 15

    def __post_init__(self) -> None:
        _countable("texts", self, "tokens", "answer_tokens", "negatives")
        for name in ("tokens", "answer_tokens", "negatives"):
            _require(getattr(self, name) > 0, f"texts.{name} must be 1 or more, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Masks:
    """How every pixel is classified, where images have masks; see docs/segmentation.md. images.size is the side of a window.

    Args:
        decoder: linear: one Linear a patch; setr-pup, setr-naive: convolutions; published: what the model was published with
            (UperNet, DPT, SegFormer).
        taps: blocks behind which the SETR heads read, the last for the main head. None: 9, 14, 19, 23 of 24, in proportion.
        auxiliary: SETR heads on the other taps, in training alone.
        channels: of SETR's convolutions.
        norm: in them. group for batches of few images.
        dropout: of channels before the logits.
        average: the loss over labelled pixels, or over all as mmsegmentation has it.
        zero: of a folder: 0 is the first class, or (ignore) means that nobody labelled the pixel. None: the first class.
        scale: random-crop of images.augment changes the scale by a factor between these first.
        filled: it draws a crop anew while one class fills more of its labelled part.
        stride: pixels from one window of an image to the next when it is scored. None: two thirds of a window.
    """

    decoder: Literal["linear", "setr-pup", "setr-naive", "published"] = "linear"
    taps: list[int] | None = None
    auxiliary: bool = True
    channels: int = 256
    norm: Literal["batch", "group"] = "batch"
    dropout: float = 0.0
    average: Literal["labelled", "all"] = "labelled"
    zero: Literal["class", "ignore"] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    filled: float = 0.75
    stride: int | None = None

    def __post_init__(self) -> None:
        _finite("masks", self, "scale", "filled")
        _countable("masks", self, "stride", "channels")
        _require(0 < self.scale[0] <= self.scale[1], f"masks.scale must rise from above 0, got {self.scale}")
        _require(0 < self.filled <= 1, f"masks.filled must be above 0 and at most 1, got {self.filled}")
        _require(self.stride is None or self.stride > 0, f"masks.stride must be 1 or more, got {self.stride}")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How a denoiser is taught to draw, where images have captions (a folder with metadata.jsonl) or a subject has a prompt.

    Args:
        prompt: of a subject: what is said of every image of the folder data.name, with a rare word, such as "a photo of sks dog".
        prior: of a subject: what is said of its class, "a photo of dog"; images of it that the frozen model draws are learnt beside
            the subject's, so that the class is not forgotten. None: none are.
        prior_images: how many.
        prior_weight: of their loss.
        min_snr: gamma of min-SNR weights of timesteps (5 in its paper), of the subject's own half where there is a prior. None:
            all timesteps weigh the same.
        offset: of noise that is the same all over a channel, added to each sample's.
        empty: part of the captions that are replaced by none, so that guidance goes on working.
        repeats: passes over the images in one epoch, for a few images of a subject.
        shown: prompts that are drawn after every epoch, and at the end. None: the subject's, or the first captions.
        steps: of DDIM in drawing.
        guidance: how far a drawing follows its text; 1: no pass without it.
    """

    prompt: str | None = None
    prior: str | None = None
    prior_images: int = 100
    prior_weight: float = 1.0
    min_snr: float | None = None
    offset: float = 0.0
    empty: float = 0.1
    repeats: int = 1
    shown: list[str] | None = None
    steps: int = 20
    guidance: float = 2.0

    def __post_init__(self) -> None:
        _finite("drawing", self, "prior_weight", "min_snr", "offset", "empty", "guidance")
        _countable("drawing", self, "prior_images", "repeats", "steps")
        for name in ("prior_images", "repeats", "steps"):
            _require(getattr(self, name) > 0, f"drawing.{name} must be 1 or more, got {getattr(self, name)}")
        _require(0 <= self.empty <= 1, f"drawing.empty must be 0 to 1, got {self.empty}")
        _require(self.min_snr is None or self.min_snr > 0, f"drawing.min_snr must be above 0, got {self.min_snr}")
        _require(self.prior is None or self.prompt is not None, "drawing.prior is of a subject: give drawing.prompt")
        _require(self.shown != [], "drawing.shown names no prompt; leave it out for the usual ones")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Labelled images, or texts about images.

    Args:
        name: a set with a name such as elpv, desk/location, vtab/dtd or fgvc/cub, a folder of images (class/image.jpg, or
            train/class/image.jpg), a parquet or arrow file or folder, or a data set of the hub; or a set of texts about images
            such as easy-vqa, vqav2 or nlvr2, or of images with captions (coco, flickr30k), to be ranked, or
            written where model.vision is set; or images with masks: ade20k, desk/garments, or a folder of images/ and masks/; or
            images to be drawn: a folder with metadata.jsonl, or of a subject where drawing.prompt is set.
        path: folder of the files of a published benchmark such as vtab/dtd. None: $GOSSAMER_DATA/vtab-1k and the like.
        image: the column of images, for parquet, arrow and hub. None: found by its type.
        label: the column of labels, likewise.
        subset: the configuration of a data set of the hub.
        train: train on the images for training, or on these and those for validation together (trainval), once settings are chosen.
        validation: part of the training images, with every text about them, held out for validation where the set has no
            validation split. 0: none.
        limit: use this many images of every split only, drawn so that every class keeps its share; of texts about images this many
            texts, of captions those of this many images. None: all.
        score_limit: the same for the validation and test splits alone. None: as `limit`. Results say how many there were.
        test: score the test split at the end. False: it is not even read, as where settings are being chosen.
        shots: so many training images of each class, drawn by seed and class, those of a smaller number among those of a larger,
            and at most 4 of each class for validation, as CoOp. None: all.
        classes: all; base, the first half of the classes; new, the others. For models with model.head=words, whose training on
            one half can be asked about the other.
        names: words for classes, where their names are none: {n01443537: goldfish}. Else underscores become spaces.
        templates: sentences with {} for the words; a class is the mean over them. None: the set's usual one, "a photo of a {}.".
    """

    name: str
    path: str | None = None
    image: str | None = None
    label: str | None = None
    subset: str | None = None
    train: Literal["train", "trainval"] = "train"
    validation: float = 0.2
    limit: int | None = None
    score_limit: int | None = None
    test: bool = True
    shots: int | None = None
    classes: Literal["all", "base", "new"] = "all"
    names: dict[str, str] = field(default_factory=dict)
    templates: list[str] | None = None

    def __post_init__(self) -> None:
        _require(self.shots is None or self.shots > 0, f"data.shots must be 1 or more, got {self.shots}")
        _require(self.name.strip() != "", "data.name is empty; it is a set's name, a folder or a file")
        _require(0 <= self.validation < 1, f"data.validation must be in [0, 1), got {self.validation}")
        _countable("data", self, "limit", "score_limit")
        for name in ("limit", "score_limit"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"data.{name} must be 1 or more, got {value}")

    def limit_of(self, split: str) -> int | None:
        """How many items of a published split are used; None: all."""
        return self.limit if split == "train" or self.score_limit is None else self.score_limit


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the methods and the head are trained. No weight decay on biases and norms.

    Args:
        epochs: passes over the training images. 0: the head is solved (see warm_start) and nothing is tuned.
        batch: images in one step; several processes (accelerate launch) share them.
        lr: largest learning rate of the methods. None: the usual one of each, such as 3e-3 for vpt and
            1e-3 for peft's.
        head_lr: largest learning rate of the head.
        weight_decay: the optimizer's, on matrices.
        head_weight_decay: that on matrices of the head. None: the same.
        optimizer: adamw, or sgd with momentum 0.9.
        schedule: of the learning rates. one-cycle rises for the first 30 % of the steps and falls to nearly 0 (a cosine each);
            cosine and linear rise for the first 10 % and fall to 0; poly falls at once, by the power 0.9, to 1e-4.
        clip: largest norm of the gradients of a step; larger ones are scaled down. 0: never.
        warm_start: start the head from the linear probe, solved exactly on features that are computed once (Kumar et al., arXiv
            2202.10054). linear_probe alone is then finished: nothing is left to tune. Soft scores and written answers have none.
            eased (ours): tuning begins from the probe of the weakest penalty whose loss on its own items is not below the best
            one's on held-out ones, since one that knows its items by heart leaves little to learn from them. The start that a run
            is compared with (epoch 0, keep) and what remains where nothing is tuned is the best probe all the same.
        keep: what is saved at the end: the last epoch; the one with the best validation accuracy; or (better) the last one, if its
            validation accuracy is above that of the start, the solved head, by more than one standard error, else the start. Where
            methods change what the head reads before they are trained, as prompts do, and make nothing cheaper, the linear probe of
            the bare backbone is set against what is kept so, by the same rule.
        bf16: compute in bfloat16 where torch's autocast deems it safe. auto: if the machine has it, since one that emulates it is
            faster in float32; the run's folder says which it was.
        tf32: multiply float32 in TF32 on an accelerator that has it: faster, with 10 bits of mantissa. Elsewhere nothing changes.
        fused: the optimizer's step as one kernel over all tensors. auto: on accelerators.
        torch_compile: backend of torch.compile, such as inductor, that training steps run through: faster after the minutes in
            which it compiles, on accelerators above all. None: they run as they are.
        attention: of training steps. fused: torch's choice. plain: products and a softmax, with memory for every pair. auto: plain
            on a CPU in bfloat16 for images of up to 256 tokens, since torch's fused backward pass is slow there; else fused.
        gradient_checkpointing: compute activations again in the backward pass: less memory, about a third more time.
        workers: processes that read images and put batches together. None: on accelerators one for each processor, at most 8,
            elsewhere none, since there they would take what training computes with.
        report_to: trackers of the Hugging Face Trainer, such as tensorboard or wandb.
        teacher: folder of a finished run of the same task, whose answers to training images are learnt beside the labels, such as
            the unskipped model's (Hinton et al., arXiv 1503.02531). None: labels alone.
        teacher_weight: a, the share of the teacher in the loss.
        teacher_temperature: T, by which both logits are divided.
        teacher_features: c, weight of the distance between what the two heads read.
    """

    epochs: int = 10
    batch: int = 32
    lr: float | None = None
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    head_weight_decay: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["one-cycle", "cosine", "linear", "constant", "poly"] = "one-cycle"
    clip: float = 1.0
    warm_start: bool | Literal["eased"] = "eased"
    keep: Literal["last", "best", "better"] = "last"
    bf16: bool | Literal["auto"] = False
    tf32: bool = False
    fused: bool | Literal["auto"] = "auto"
    torch_compile: str | None = None
    attention: Literal["auto", "fused", "plain"] = "auto"
    gradient_checkpointing: bool = False
    workers: int | None = None
    report_to: list[str] = field(default_factory=list)
    teacher: str | None = None
    teacher_weight: float = 0.5
    teacher_temperature: float = 2.0
    teacher_features: float = 0.0

    def __post_init__(self) -> None:
        _finite("training", self, "lr", "head_lr", "weight_decay", "head_weight_decay", "clip")
        _finite("training", self, "teacher_weight", "teacher_temperature", "teacher_features")
        _require(0 <= self.teacher_weight <= 1, f"training.teacher_weight must be in [0, 1], got {self.teacher_weight}")
        _require(
            self.teacher_temperature > 0,
            f"training.teacher_temperature must be above 0, got {self.teacher_temperature}",
        )
        _require(
            self.teacher_features >= 0, f"training.teacher_features must not be negative, got {self.teacher_features}"
        )
        if self.teacher is not None:
            object.__setattr__(self, "teacher", str(expanded(self.teacher)))
        _countable("training", self, "epochs", "batch")
        _require(self.batch > 0, f"training.batch must be 1 or more, got {self.batch}")
        for name in ("epochs", "head_lr", "weight_decay", "clip"):
            _require(getattr(self, name) >= 0, f"training.{name} must not be negative, got {getattr(self, name)}")
        at_most = f"training.workers must be at most {MOST_WORKERS}, got {self.workers}"
        _require(self.workers is None or self.workers <= MOST_WORKERS, at_most)
        for name in ("lr", "head_weight_decay", "workers"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"training.{name} must not be negative, got {value}")
        if self.bf16 == "auto":
            from gossamer.cost import machine  # torch: not for a run file alone

            object.__setattr__(self, "bf16", bool(machine.bfloat16()))
        if self.epochs == 0 and not self.warm_start:
            raise UserError("training.epochs=0 with training.warm_start=false trains nothing; change one of them")

    @property
    def bfloat16(self) -> bool:
        """`bf16`, of which no auto is left by now."""
        return self.bf16 is True

    @property
    def readers(self) -> int:
        """`workers`, or as many as this machine should have."""
        from gossamer.cost import machine  # as above

        return machine.readers() if self.workers is None else self.workers


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the arms of a method (which layers DAS skips) are searched: `gossamer search`.

    Args:
        by: bandit: that of the method's paper, over a super-network. race (ours): short runs of several choices, the better half of
            which goes on; of the settings below it reads hold_out, candidates, engine and workers.
        epochs: passes over the training data with the super-network.
        hold_out: part of the training data that scores candidates and is not trained on. None: 0.05, of a race 0.25.
        rules: changes to the bandit of the method's paper, such as {eta: 0.1, candidates: 5, interval: 3, warmup: 2}; see
            gossamer.methods.parts.bandit.Bandit.
        reward_data: held-out: a fresh batch of the held-out part for every update; train-batch: the batch of the step itself.
        reward_batch: items that score candidates in one update. None: as many as a training step has.
        dropout: whether candidates are scored in training mode, as the authors do on ViLT and METER.
        budget: ours. The finished model is to cost at most this share of the bare backbone; how many modules are skipped follows.
        cost: what a budget and savings are measured in, multiply-adds or time on this machine.
        saving: ours. Exponent w: a candidate's reward is multiplied by (what it saves / what is saved on average)^w. 0: the paper.
        checkpoint: steps between two states from which a killed search goes on.
        candidates: choices that enter a race.
        engine: where the runs of a race are made: processes of this machine, or a Ray cluster.
        workers: runs of a race at a time, on each machine; the result does not depend on it.
    """

    by: Literal["bandit", "race"] = "bandit"
    epochs: int = 3
    hold_out: float | None = None
    rules: dict[str, Any] = field(default_factory=dict)
    reward_data: Literal["held-out", "train-batch"] = "held-out"
    reward_batch: int | None = None
    dropout: bool = False
    budget: float | None = None
    cost: Literal["macs", "latency"] = "macs"
    saving: float = 0.0
    checkpoint: int = 100
    candidates: int = 16
    engine: Literal["local", "ray"] = "local"
    workers: int = 1

    def __post_init__(self) -> None:
        if self.hold_out is None:
            object.__setattr__(self, "hold_out", 0.25 if self.by == "race" else 0.05)
        _finite("search", self, "budget", "saving", "hold_out")
        _countable("search", self, "epochs", "reward_batch", "checkpoint", "candidates")
        _require(self.epochs > 0, f"search.epochs must be 1 or more, got {self.epochs}")
        _require(0 < self.held_out < 1, f"search.hold_out must be between 0 and 1, got {self.hold_out}")
        _require(self.candidates > 1, f"search.candidates must be 2 or more, got {self.candidates}")
        _require(0 < self.workers <= MOST_WORKERS, f"search.workers must be 1 to {MOST_WORKERS}, got {self.workers}")
        _require(
            self.reward_batch is None or self.reward_batch > 0,
            f"search.reward_batch must be 1 or more, got {self.reward_batch}",
        )
        _require(self.budget is None or self.budget > 0, f"search.budget must be above 0, got {self.budget}")
        _require(self.saving >= 0, f"search.saving must not be negative, got {self.saving}")
        _require(self.checkpoint > 0, f"search.checkpoint must be 1 or more, got {self.checkpoint}")

    @property
    def held_out(self) -> float:
        """`hold_out`, of which no None is left by now."""
        assert self.hold_out is not None, "it was decided when this was made"
        return self.hold_out

    @property
    def looks_at_cost(self) -> bool:
        """Whether what arms save has to be known."""
        return self.budget is not None or self.saving > 0


@dataclass(frozen=True, kw_only=True)
class Condense:
    """Prompt condensation of a finished run: its trained prompts are cut, and what is left is tuned; see docs/pc.md.

    Args:
        run: folder of the finished run. Model, data and methods are those of that run.
        keep: share of all prompts that stays. The paper: 0.3.
        score: what a prompt is judged by; magnitude and random are controls.
        ranking: global, the best of all blocks together, or local, of each block.
        min_per_block: prompts that every block keeps at least.
        rounds: cuts on the way, with scores taken anew before each.
        per_sample: the mean of every training image's own score in place of the score of the mean gradient.
    """

    run: str
    keep: float = 0.3
    score: Literal["taylor", "norm", "grad", "gate", "inner", "magnitude", "random"] = "taylor"
    ranking: Literal["global", "local"] = "global"
    min_per_block: int = 0
    rounds: int = 1
    per_sample: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", str(expanded(self.run)))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: `gossamer train run.yaml`, or all of it as options.

    Args:
        model: the pre-trained backbone.
        data: labelled images, or texts about images.
        methods: what is trained besides the head, as a list such as [{method: vpt, prompts: 10}]; peft's too: {method: peft,
            peft_type: LORA, r: 8}. `gossamer methods` lists them with their settings.
        output: folder of this run: its settings, adapter, metrics, pictures and log. ~ is the home folder.
        images: how images are prepared.
        texts: how texts about images are read and answered.
        masks: how every pixel is classified.
        drawing: how a denoiser is taught to draw.
        training: optimisation.
        search: how `gossamer search` finds the arms of a method; training alone does not read it.
        seed: of prompts, held-out images, order of the images and dropout.
        condense: start from the condensed prompts and the head of a finished run; `gossamer condense` writes it. None: from the
            pre-trained model.
    """

    model: Model
    data: Data
    methods: list[dict[str, Any]]
    output: str
    images: Images = field(default_factory=Images)
    texts: Texts = field(default_factory=Texts)
    masks: Masks = field(default_factory=Masks)
    drawing: Drawing = field(default_factory=Drawing)
    training: Training = field(default_factory=Training)
    search: Search = field(default_factory=Search)
    seed: int = 0
    condense: Condense | None = None

    def __post_init__(self) -> None:
        _require(len(self.methods) > 0, "methods is empty; [{method: linear_probe}] trains the head alone")
        _require(0 <= self.seed < 2**32, f"seed must be 0 to {2**32 - 1}, got {self.seed}")
        _require(self.output.strip() != "", "output is empty; it is the folder of the run")
        object.__setattr__(self, "output", str(expanded(self.output)))


def _finite(section: str, settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        values = value if isinstance(value, tuple | list) else [] if value is None else [value]
        _require(all(map(math.isfinite, values)), f"{section}.{name} must be finite, got {value}")


def _countable(section: str, settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(value is None or value <= MOST, f"{section}.{name} must be at most {MOST:,}, got {value}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
