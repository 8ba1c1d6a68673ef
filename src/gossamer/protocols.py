"""Run files of published protocols on VTAB-1k and FGVC: `gossamer protocol PAPER TASK FOLDER`, made from one table.

Two stages, as in the papers: "select" writes a run for every setting of the grid, to be compared on the validation images; "final"
one for every seed with the settings chosen, trained on VTAB's 1,000 images (FGVC: on its training images alone).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

from gossamer.errors import UserError
from gossamer.pixels import IMAGENET_MEAN, IMAGENET_STD
from gossamer.runs.run import Data, Images, Model, Run, Training

BACKBONE = "google/vit-base-patch16-224-in21k"
MAE = "mae:mae_pretrain_vit_base.pth"  # the authors' file, in the folder where training starts
SIZE = 224
EPOCHS = 100  # the first tenth warms up, then a cosine to 0

# task: prompts of VPT-deep; prompts, base lr, weight decay of VPT-shallow; prompts, lr, weight decay, batch of CVPT
# (VPT: section 5.4 of the paper's supplement and the released scripts; CVPT: the released configurations; None: not published)
TASKS: dict[str, tuple[int, tuple[int, float, float], tuple[int, float, float | None, int | None]]] = {
    "vtab/cifar": (10, (100, 10, 1e-3), (10, 1e-3, None, None)),
    "vtab/caltech101": (10, (5, 2.5, 1e-3), (200, 1e-3, 5e-2, 32)),
    "vtab/dtd": (10, (1, 10, 0), (10, 1e-3, 5e-2, 64)),
    "vtab/oxford_flowers102": (1, (200, 25, 1e-3), (5, 2e-3, 5e-2, 16)),
    "vtab/oxford_iiit_pet": (1, (50, 2.5, 1e-3), (5, 1e-3, 1e-5, 64)),
    "vtab/svhn": (50, (200, 0.5, 1e-2), (5, 1e-2, 5e-2, 32)),
    "vtab/sun397": (5, (1, 1, 0), (10, 2e-3, 5e-2, 16)),
    "vtab/patch_camelyon": (100, (5, 1, 1e-2), (1, 1e-2, 1e-5, 16)),
    "vtab/eurosat": (100, (50, 100, 1e-3), (5, 5e-3, 5e-2, 32)),
    "vtab/resisc45": (10, (50, 10, 1e-3), (10, 5e-3, 5e-2, 16)),
    "vtab/diabetic_retinopathy": (1, (10, 0.1, 1e-3), (5, 5e-3, 1e-5, 32)),
    "vtab/clevr_count": (50, (100, 500, 0), (20, 1e-3, 5e-2, 16)),
    "vtab/clevr_dist": (200, (200, 2.5, 1e-2), (50, 1e-3, 1e-5, 64)),
    "vtab/dmlab": (100, (100, 500, 0), (200, 2e-3, 5e-2, 16)),
    "vtab/kitti": (50, (100, 250, 0), (20, 5e-3, 5e-2, 16)),
    "vtab/dsprites_loc": (10, (100, 1, 1e-2), (20, 5e-3, 1e-5, 32)),
    "vtab/dsprites_ori": (50, (100, 0.5, 1e-2), (5, 5e-3, 1e-5, 16)),
    "vtab/smallnorb_azi": (200, (200, 1, 1e-2), (50, 5e-3, 5e-2, 32)),
    "vtab/smallnorb_ele": (200, (200, 500, 0), (50, 1e-3, 5e-2, 32)),
    "fgvc/cub": (10, (100, 0.5, 1e-3), (5, 5e-4, 5e-2, 32)),
    "fgvc/nabirds": (50, (50, 10, 0), (200, 2e-4, 1e-5, 16)),
    "fgvc/flowers": (5, (100, 5, 1e-3), (5, 1e-3, 5e-2, 16)),
    "fgvc/dogs": (100, (100, 1, 1e-4), (10, 2e-4, 1e-5, 16)),
    "fgvc/cars": (200, (100, 500, 0), (100, 2e-3, 5e-2, 16)),
}
SPT_FOUND = {"fgvc/cub": (5e-2, 1e-2, 0.5, MAE), "fgvc/dogs": (1e-3, 1e-2, 3.0, BACKBONE)}
"""lr, weight decay, that of the head, and backbone of SPT-deep: the two tasks of which the authors published them."""
DEEP_FOUND = {"vtab/dmlab": (1.0, 1e-3), "vtab/eurosat": (1.0, 1e-3), "vtab/sun397": (25.0, 1e-4)}
"""Base lr and weight decay of VPT-deep where the authors published them: in their notebook only."""
SGD_RATES = (50.0, 25.0, 10.0, 5.0, 2.5, 1.0, 0.5, 0.25, 0.1, 0.05)
DECAYS = (1e-2, 1e-3, 1e-4, 0.0)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one paper trains one task: `lr` is what the optimiser gets at batch 256; `settings` None: to be found on `grid`."""

    method: dict[str, Any]
    optimizer: Literal["adamw", "sgd"]
    batch: int
    grid: tuple[tuple[float, float], ...]
    settings: tuple[float, float] | None = None
    seeds: tuple[int, ...]
    scaled: bool = False  # lr is multiplied by batch / 256
    head_decay: float | None = None  # weight decay of the head, where it is another
    backbone: str = BACKBONE


def protocol(paper: str, task: str) -> Protocol:
    """The protocol of vpt-deep, vpt-shallow, spt-deep, cvpt, lora or adaptformer on one of `TASKS`, for ViT-B/16 of ImageNet-21k.

    VPT (Jia et al., arXiv 2203.12119): SGD, base lr x batch / 256. CVPT (Huang et al., arXiv 2408.14961): AdamW with the authors'
    settings of each task, and every seed that occurs in them. SPT (Wang et al., arXiv 2402.02382): AdamW; CUB-200 on MAE's
    ViT-B/16, Stanford Dogs on the supervised one. lora, adaptformer: rank 8, AdamW 1e-3, weight decay 1e-4, batch 64,
    as NOAH (Zhang et al., arXiv 2206.04673) trains them.

    Raises:
        ValueError: unknown paper or task, or one that the paper has no settings for, with the known ones.
    """
    if paper not in PAPERS:
        raise UserError(f"no protocol {paper!r}; there are: {', '.join(PAPERS)}")
    if task not in TASKS:
        raise UserError(f"no task {task!r} with published settings; there are: {', '.join(TASKS)}")
    return PAPERS[paper](task)


def _vpt_deep(task: str) -> Protocol:
    return _vpt(TASKS[task][0], deep=True, settings=DEEP_FOUND.get(task))


def _vpt_shallow(task: str) -> Protocol:
    prompts, *settings = TASKS[task][1]
    return _vpt(prompts, deep=False, settings=(settings[0], settings[1]))


def _vpt(prompts: int, *, deep: bool, settings: tuple[float, float] | None) -> Protocol:
    return Protocol(
        method={"method": "vpt", "prompts": prompts, "deep": deep, "dropout": 0.1 if deep else 0.0},
        optimizer="sgd",
        batch=128 if prompts < 100 else 64,
        grid=tuple(itertools.product(SGD_RATES if deep else (1000.0, 500.0, 250.0, 100.0, *SGD_RATES), DECAYS)),
        settings=settings,
        seeds=(42, 44, 82, 100, 800),
        scaled=True,
    )


def _spt(task: str) -> Protocol:
    if task not in SPT_FOUND:
        raise UserError(f"the authors published no settings of spt-deep on {task}; they did on {', '.join(SPT_FOUND)}")
    lr, decay, head_decay, backbone = SPT_FOUND[task]
    averaged = {"stay": True} if backbone == MAE else {}  # MAE's read-out averages over prompts and patches
    return Protocol(
        method={"method": "spt", "prompts": 20, **averaged},
        optimizer="adamw",
        batch=32,
        grid=((lr, decay),),
        settings=(lr, decay),
        seeds=(42, 44, 82, 100, 800),
        head_decay=head_decay,
        backbone=backbone,
    )


def _cvpt(task: str) -> Protocol:
    prompts, lr, decay, batch = TASKS[task][2]
    driver = task.startswith("vtab/")  # whose driver reads the rate alone, and leaves these two as they are
    settings = (lr, 0.05 if driver or decay is None else decay)
    return Protocol(
        method={"method": "cvpt", "prompts": prompts, "start": "published", "dropout": 0.1},
        optimizer="adamw",
        batch=32 if driver or batch is None else batch,
        grid=(settings,),
        settings=settings,
        seeds=(42, 44, 80, 100, 800),
    )


def _baseline(method: dict[str, Any]) -> Protocol:
    settings = (1e-3, 1e-4)
    return Protocol(
        method=method, optimizer="adamw", batch=64, grid=(settings,), settings=settings, seeds=(42, 44, 82, 100, 800)
    )


PAPERS = {
    "vpt-deep": _vpt_deep,
    "vpt-shallow": _vpt_shallow,
    "spt-deep": _spt,
    "cvpt": _cvpt,
    "lora": lambda task: _baseline({"method": "peft", "peft_type": "LORA", "r": 8, "target_modules": ["q", "v"]}),
    "adaptformer": lambda task: _baseline({"method": "adapter", "rank": 8, "placement": "parallel", "scale": 0.1}),
}
"""Name of a protocol -> the protocol of a task."""


def files(
    paper: str,
    task: str,
    stage: str,
    output: str,
    *,
    settings: tuple[float, float] | None = None,
    path: str | None = None,
) -> dict[str, Run]:
    """The runs of one stage by the name of their file, each with a folder of its own in `output`.

    Args:
        paper: see `protocol`.
        task: see `protocol`.
        stage: "select": every (lr, weight decay) of the grid, seed 42; "final": `settings`, every seed.
        output: folder for the runs' own folders.
        settings: (lr, weight decay) of the final stage. None: those the authors published.
        path: folder of the benchmark's files. None: $GOSSAMER_DATA.

    Raises:
        ValueError: unknown names, or a final stage without settings where none are published.
    """
    if stage not in ("select", "final"):
        raise UserError(f"no stage {stage!r}; there are: select, final")
    found = protocol(paper, task)
    settings = settings or found.settings
    if stage == "select":
        return {
            f"lr{lr:g}-wd{decay:g}": _run(found, task, stage, f"{output}/lr{lr:g}-wd{decay:g}", lr, decay, 42, path)
            for lr, decay in found.grid
        }
    if settings is None:
        raise UserError(
            f"the authors published no learning rate of {paper} on {task}: choose one with --stage select, and give --lr and "
            "--weight-decay"
        )
    return {
        f"seed{seed}": _run(found, task, stage, f"{output}/seed{seed}", *settings, seed, path) for seed in found.seeds
    }


def _run(
    found: Protocol, task: str, stage: str, output: str, lr: float, decay: float, seed: int, path: str | None
) -> Run:
    vtab = task.startswith("vtab/")
    rate = lr * found.batch / 256 if found.scaled else lr
    return Run(
        model=Model(name=found.backbone, head="plain"),
        data=Data(
            name=task, path=path, train="trainval" if vtab and stage == "final" else "train", validation=0.0,
            test=stage == "final",
        ),
        images=Images(
            size=SIZE,
            resize="direct" if vtab else "shorter-side",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            augment=[] if vtab else ["random-crop", "horizontal-flip"],
        ),
        methods=[found.method],
        training=Training(
            epochs=EPOCHS, batch=found.batch, lr=rate, head_lr=rate, weight_decay=decay,
            head_weight_decay=found.head_decay, optimizer=found.optimizer, schedule="cosine", clip=0.0, warm_start=False,
        ),
        output=output,
        seed=seed,
    )  # fmt: skip
