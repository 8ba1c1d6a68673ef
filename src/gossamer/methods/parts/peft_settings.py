"""Settings of peft's tuners as a folder holds them: plain numbers and words, and modules by name.

Of what peft takes, some imports modules, loads models, runs expressions or changes the backbone's own weights. A folder comes from
anywhere, so it may hold `PLAIN` settings of `TUNERS` alone; a configuration that needs more is refused when a model is adapted.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from gossamer.documents import MOST
from gossamer.errors import UserError

TUNERS = frozenset((
    "ADALORA", "BEFT", "C3A", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING", "LOHA",
    "LOKR", "LORA", "MISS", "OFT", "PEANUT", "PVERA", "RANDLORA", "ROAD", "TINYLORA", "TRAINABLE_TOKENS", "VBLORA",
    "VERA", "WAVEFT",
))  # fmt: skip
"""Tuners that leave the backbone's own weights alone and whose tensors have sizes that the settings give, not the weights."""

NAMES = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save", "layers_pattern")
"""Settings that are lists of names."""

BY_NAME = frozenset((
    "alpha_pattern", "block_size_pattern", "lambda_pattern", "n_frequency_pattern", "rank_pattern",
    "trainable_token_indices",
))  # fmt: skip
"""Settings that have a value for each of some names."""

_NUMBERS_AND_WORDS = frozenset((
    "act_fn", "alpha", "apply_GS", "beta1", "beta2", "bias", "block_share", "block_size", "coft", "config_A_B", "config_C",
    "config_D_E", "d_initial", "decompose_both", "decompose_factor", "delora_lambda", "deltaT", "depth",
    "ensure_weight_tying", "eps", "fan_in_fan_out", "generator_seed", "gralora_dropout", "gralora_k", "group_size",
    "hira_dropout", "hybrid_r", "init_ia3_weights", "init_logits_std", "init_lora_weights", "init_r", "init_v_bound",
    "init_vector_bank_bound", "init_weights", "layers_to_transform", "lora_alpha", "lora_bias", "lora_dropout", "mask_type",
    "mini_r", "miss_dropout", "module_dropout", "n_frequency", "num_B", "num_cayley_neumann_terms", "num_vectors",
    "oft_block_size", "orth_reg_weight", "projection_prng_key", "projection_seed", "proportional_parameters",
    "pvera_dropout", "qalora_group_size", "r", "randlora_alpha", "randlora_dropout", "random_loc_seed", "random_seed",
    "rank_dropout", "rank_dropout_scale", "sample_at_inference", "save_only_topk_weights", "save_projection", "scaling",
    "sparse", "stride_A", "target_r", "tfinal", "tinit", "tinylora_dropout", "token_indices", "topk", "total_step", "u",
    "use_cayley_neumann", "use_dora", "use_effective_conv2d", "use_idwt", "use_rslora", "variant", "vblora_dropout",
    "vector_length", "vera_dropout", "very_sparse", "wavelet_family", "weight_tying",
))  # fmt: skip

PLAIN = _NUMBERS_AND_WORDS | BY_NAME | frozenset(NAMES)
"""Settings of these tuners that a folder may hold."""

ASIDE = frozenset((
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "runtime_config",
    "task_type",
))  # fmt: skip
"""Settings that change nothing here, and are not kept."""

NAME = re.compile(r"[\w-]+(\.[\w-]+)*")


def check(config: Any) -> None:
    """Nothing, where a configuration can be kept in a folder.

    Raises:
        UserError: it is of another tuner, or has settings that are not plain.
    """
    kind = config.peft_type.value
    if kind not in TUNERS:
        raise UserError(
            f"peft's {kind} changes the backbone's own weights, or makes tensors whose sizes its settings do not give, so no "
            f"folder can hold it; others can: {', '.join(sorted(TUNERS))}"
        )
    fields = {f.name: f for f in dataclasses.fields(config)}
    others = [n for n in fields.keys() - PLAIN - ASIDE if getattr(config, n) != _default(fields[n])]
    if others:
        raise UserError(
            f"{type(config).__name__} with {', '.join(sorted(others))} cannot be kept in an adapter's folder, which holds plain "
            "numbers, words and names; leave it at its default"
        )


def check_counts(config: Any, model: nn.Module) -> None:
    """Nothing, where no list of names is longer than there are modules: each name is compared with each module.

    Raises:
        UserError: one is.
    """
    most = sum(1 for _ in model.modules())
    for name in (*NAMES, *BY_NAME):
        value = getattr(config, name, None) or ()
        if not isinstance(value, str) and len(value) > most:
            raise UserError(
                f"{name} of this {type(config).__name__} has {len(value):,} entries, and the model {most:,} modules"
            )


def check_plain(values: dict[str, Any]) -> None:
    """Nothing, where settings from a folder are plain: known names, numbers and words, modules by name or role.

    Raises:
        UserError: one is not; the message names it.
    """
    kind = values.get("peft_type")
    if not isinstance(kind, str) or kind not in TUNERS:
        raise UserError(f"peft_type is {kind!r:.60}; a folder may ask for {', '.join(sorted(TUNERS))}")
    for name, value in values.items():
        if name in ("method", "peft_type"):
            continue
        if name not in PLAIN:
            raise UserError(f"peft ({kind}) has no setting {name!r:.60} that a folder may hold")
        if name in NAMES and value is not None and not (isinstance(value, list) and all(map(_named, value))):
            raise UserError(
                f"peft ({kind}): {name} must be a list of names of modules or roles, no pattern; found {value!r:.60}"
            )
        if name in BY_NAME and isinstance(value, dict) and not all(map(_named, value)):
            raise UserError(
                f"peft ({kind}): {name} must go by names of modules, no patterns; found {list(value)!r:.60}"
            )
        if not _is_plain(value):
            raise UserError(f"peft ({kind}): {name} must be a number, a word or a list of them, found {value!r:.60}")


def _named(name: Any) -> bool:
    return isinstance(name, str) and len(name) < 1000 and NAME.fullmatch(name) is not None


def _is_plain(value: Any) -> bool:
    """A number that can be counted with, a word, a list of such, or such by name."""
    if isinstance(value, dict):
        return all(_is_plain(v) and not isinstance(v, dict) for v in value.values())
    if isinstance(value, list):
        return all(_is_plain(v) and not isinstance(v, list | dict) for v in value)
    return value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) <= MOST)


def _default(field: Any) -> Any:
    """What a setting is where nobody gives it."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def targeted(config: Any, model: nn.Module) -> Iterator[str]:
    """Names of the modules that peft would replace."""
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers, check_target_module_exists

    config = _maybe_include_all_linear_layers(copy.deepcopy(config), model)
    if config.target_modules is None:
        return iter(())
    return (name for name, _ in model.named_modules() if name and check_target_module_exists(config, name))


def patterned(config: Any) -> bool:
    """Whether modules are asked for by an expression, or by the numbers of their layers."""
    by_layer = getattr(config, "layers_to_transform", None) is not None
    return by_layer or any(isinstance(getattr(config, name, None), str) for name in NAMES)


def write_out(config: Any, hit: set[str]) -> None:
    """Puts names of modules in place of the patterns of a configuration."""
    feedforward = getattr(config, "feedforward_modules", None)
    if isinstance(feedforward, str):
        config.feedforward_modules = {name for name in hit if re.fullmatch(feedforward, name)}
    config.target_modules = set(hit)
    for name in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        if hasattr(config, name):
            setattr(config, name, None)


def write_out_keys(config: Any, field: str, hit: Iterable[str]) -> None:
    """Puts names of modules in place of the patterns that a setting by module has for keys."""
    from peft.utils.other import get_pattern_key

    given = getattr(config, field)
    if isinstance(given, dict) and not all(map(_named, given)):
        keys = {name: get_pattern_key(list(given), name) for name in sorted(hit)}
        setattr(config, field, {name: given[key] for name, key in keys.items() if key in given})
