"""Models that transformers lacks, in its style, and readers of the authors' own checkpoints.

    from gossamer.models.meter import MeterForQuestionAnswering
    from gossamer.models import meter_checkpoint, vilt

`register` makes them known to transformers' Auto classes; what loads models by name calls it.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """AutoConfig, AutoModel and the Auto classes of tasks know the models of this folder; calling it again changes nothing."""
    import transformers

    from gossamer.models import auto, meter, meter_heads, ranking

    transformers.AutoConfig.register("meter", meter.MeterConfig, exist_ok=True)
    transformers.AutoModel.register(meter.MeterConfig, meter.MeterModel, exist_ok=True)
    answering = transformers.AutoModelForVisualQuestionAnswering
    answering.register(meter.MeterConfig, meter_heads.MeterForQuestionAnswering, exist_ok=True)
    pairs = meter_heads.MeterForImagesAndTextClassification
    auto.AutoModelForTwoImages.register(meter.MeterConfig, pairs, exist_ok=True)
    auto.AutoModelForRetrieval.register(meter.MeterConfig, meter_heads.MeterForRetrieval, exist_ok=True)
    auto.AutoModelForRetrieval.register(transformers.ViltConfig, ranking.ViltForRetrieval, exist_ok=True)


def find(name: str) -> Any:
    """The model class of this name, of transformers or ours; None where there is none."""
    import transformers

    from gossamer.models import auto, meter, meter_heads, pair, ranking

    register()
    places = (transformers, meter, meter_heads, ranking, pair, auto)
    return next((getattr(place, name) for place in places if name and hasattr(place, name)), None)
