"""Every method with small settings, for the contract tests: a new one joins here."""

from outside import Flow
from own_method import ClassMeans

from avalanche_dgm.methods import (
    ALTM,
    DGDMN,
    DGR,
    NCM,
    SLDA,
    DynamicMemory,
    ElasticWeightConsolidation,
    EWCGenerator,
    GANReplay,
    LatentReplay,
    MeRGAN,
    PseudoRehearsal,
    RanPAC,
)

SMALL = {"generator_steps": 20, "hidden": (32, 32), "latent": 4}
DUAL = {**SMALL, "learner_steps": 20, "stm_size": 2}
GAN = {
    "generator_steps": 12,
    "width": 4,
    "discriminator_width": 4,
    "latent": 16,
    "replay_per_class": 16,
    "batch_size": 16,
    "discriminator_finetune_epochs": 1,
}
MASKED = {**GAN, "smax": 1e3}
CONDITIONAL = {**GAN, "class_inputs": 10}
PAPER = {"consolidation": "rehearsal", "sampling": "prior", "labels": "hard"}

#: Class of the method, hyper-parameters.
METHODS = {
    "dgr": (DGR, {**SMALL, "finetune_steps": 5}),
    "dgr-paper": (DGR, {**SMALL, **PAPER, "finetune_steps": 0}),
    "own-flow": (DGR, {"generator": Flow(layers=2, hidden=16, steps=15), "finetune_steps": 0}),
    "dgdmn": (DGDMN, DUAL),
    "dgdmn-oracle": (DGDMN, {**DUAL, "routing": "oracle"}),
    "dgdmn-sleep": (DGDMN, {**DUAL, "routing": "sleep"}),
    "dgdmn-no-stm": (DGDMN, {**DUAL, "short_term": False}),
    "dgdmn-paper": (
        DGDMN,
        {**DUAL, "consolidation": "rehearsal", "n_max": 300, "reconstruct": True},
    ),
    "altm": (ALTM, {}),
    "altm-stored": (
        ALTM,
        {"replay": "stored", "per_class": 8, "consolidation": "distil", "distil_steps": 15},
    ),
    "altm-generated": (ALTM, {"replay": "generated", "finetune_steps": 3, **SMALL}),
    "altm-latent": (ALTM, {"replay": "latent-replay"}),
    "altm-dynamic": (ALTM, {"replay": "dynamic-memory", "source": MASKED}),
    "latent": (LatentReplay, {"per_class": 8, "covariance": True, "finetune_steps": 5}),
    "latent-alternating": (
        LatentReplay,
        {"schedule": "alternating", "total": 40, "dtype": "uint8"},
    ),
    "latent-late": (
        LatentReplay,
        {"freeze_after": 2, "encode_once": False, "per_experience": 10},
    ),
    "latent-density": (LatentReplay, {"memory": "density", "freeze_after": 0}),
    "latent-density-half": (
        LatentReplay,
        {"memory": "density", "freeze_after": 0, "at_rest": "float16"},
    ),
    "latent-vae": (LatentReplay, {"memory": "vae", **SMALL}),
    "dynamic-memory": (DynamicMemory, {**MASKED, "finetune_steps": 5}),
    "dynamic-memory-discriminator": (DynamicMemory, {**MASKED, "classifier": "discriminator"}),
    "dynamic-memory-half": (DynamicMemory, {**MASKED, "at_rest": "float16"}),
    "dynamic-memory-weights": (DynamicMemory, {**MASKED, "masking": "weights"}),
    "dynamic-memory-accelerated": (
        DynamicMemory,
        {**MASKED, "classifier": "discriminator", "accelerate": True},
    ),
    "mergan": (MeRGAN, CONDITIONAL),
    "mergan-alignment": (
        MeRGAN,
        {**CONDITIONAL, "replay": "alignment", "classifier": "discriminator"},
    ),
    "ewc-generator": (EWCGenerator, {**CONDITIONAL, "fisher_samples": 8}),
    "gan-replay": (GANReplay, CONDITIONAL),
    "pseudo-rehearsal": (PseudoRehearsal, {}),
    "ewc": (ElasticWeightConsolidation, {"fisher_samples": 40}),
    "ncm": (NCM, {}),
    "slda": (SLDA, {}),
    "ranpac": (RanPAC, {"projections": 50}),
    "class-means": (ClassMeans, {"noise": 0.2}),
}

#: Settings of methods that are tested above; left to the slow suite where each test takes seconds.
VARIANTS = {
    "dgr-paper",
    "own-flow",
    "dgdmn-oracle",
    "dgdmn-sleep",
    "dgdmn-paper",
    "altm-dynamic",
    "latent-alternating",
    "latent-late",
    "latent-density-half",
    "latent-vae",
    "dynamic-memory-half",
    "dynamic-memory-weights",
    "dynamic-memory-accelerated",
    "mergan-alignment",
    "ncm",
    "ranpac",
    "ewc-generator",
    "gan-replay",
}
MAIN = [name for name in METHODS if name not in VARIANTS]


def cut_behind(name, layer):
    """A method's hyper-parameters; those that cut the model cut it behind a layer."""
    kind, hyper = METHODS[name]
    if "layer" in kind.settings_type.names():
        return {**hyper, "layer": layer}
    if hyper.get("replay") == "latent-replay":
        return {**hyper, "source": {"layer": layer, "per_class": 8}}
    return hyper
