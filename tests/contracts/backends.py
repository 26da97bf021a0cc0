"""Every method with its plugin, its LightningModule and small settings: a new one joins here."""

from outside import Flow
from own_method import ClassMeans
from torch import nn

from avalanche_dgm import (
    ALTMPlugin,
    DGDMNPlugin,
    DGRPlugin,
    DynamicMemoryPlugin,
    EWCGeneratorPlugin,
    GANReplayPlugin,
    LatentReplayPlugin,
    MeRGANPlugin,
    PseudoRehearsalPlugin,
)
from avalanche_dgm.errors import UnknownTaskError
from avalanche_dgm.lightning import (
    ALTMModule,
    DGDMNModule,
    DGRModule,
    DynamicMemoryModule,
    EWCGeneratorModule,
    GANReplayModule,
    LatentReplayModule,
    MeRGANModule,
    PseudoRehearsalModule,
    module_of,
)
from avalanche_dgm.methods.abilities import Inspectable
from avalanche_dgm.plugins import plugin_of

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

#: Plugin, module, hyper-parameters.
BACKENDS = {
    "dgr": (DGRPlugin, DGRModule, SMALL),
    "dgr-paper": (DGRPlugin, DGRModule, {**SMALL, **PAPER}),
    "own-flow": (
        DGRPlugin,
        DGRModule,
        {"generator": Flow(layers=2, hidden=16, steps=15)},
    ),
    "dgdmn": (DGDMNPlugin, DGDMNModule, DUAL),
    "dgdmn-oracle": (DGDMNPlugin, DGDMNModule, {**DUAL, "routing": "oracle"}),
    "dgdmn-sleep": (DGDMNPlugin, DGDMNModule, {**DUAL, "routing": "sleep"}),
    "dgdmn-no-stm": (DGDMNPlugin, DGDMNModule, {**DUAL, "short_term": False}),
    "dgdmn-paper": (
        DGDMNPlugin,
        DGDMNModule,
        {**DUAL, "consolidation": "rehearsal", "n_max": 300, "reconstruct": True},
    ),
    "altm": (ALTMPlugin, ALTMModule, {}),
    "altm-stored": (
        ALTMPlugin,
        ALTMModule,
        {"replay": "stored", "per_class": 8, "consolidation": "distil", "distil_steps": 15},
    ),
    "altm-generated": (ALTMPlugin, ALTMModule, {"replay": "generated", **SMALL}),
    "altm-latent": (ALTMPlugin, ALTMModule, {"replay": "latent-replay"}),
    "altm-dynamic": (ALTMPlugin, ALTMModule, {"replay": "dynamic-memory", "source": MASKED}),
    "latent": (LatentReplayPlugin, LatentReplayModule, {"per_class": 8, "covariance": True}),
    "latent-alternating": (
        LatentReplayPlugin,
        LatentReplayModule,
        {"schedule": "alternating", "total": 40, "dtype": "uint8"},
    ),
    "latent-late": (
        LatentReplayPlugin,
        LatentReplayModule,
        {"freeze_after": 2, "encode_once": False, "per_experience": 10},
    ),
    "latent-density": (
        LatentReplayPlugin,
        LatentReplayModule,
        {"memory": "density", "freeze_after": 0},
    ),
    "latent-vae": (LatentReplayPlugin, LatentReplayModule, {"memory": "vae", **SMALL}),
    "dynamic-memory": (DynamicMemoryPlugin, DynamicMemoryModule, MASKED),
    "dynamic-memory-discriminator": (
        DynamicMemoryPlugin,
        DynamicMemoryModule,
        {**MASKED, "classifier": "discriminator"},
    ),
    "dynamic-memory-weights": (
        DynamicMemoryPlugin,
        DynamicMemoryModule,
        {**MASKED, "masking": "weights"},
    ),
    "dynamic-memory-accelerated": (
        DynamicMemoryPlugin,
        DynamicMemoryModule,
        {**MASKED, "classifier": "discriminator", "accelerate": True},
    ),
    "mergan": (MeRGANPlugin, MeRGANModule, CONDITIONAL),
    "mergan-alignment": (
        MeRGANPlugin,
        MeRGANModule,
        {**CONDITIONAL, "replay": "alignment", "classifier": "discriminator"},
    ),
    "ewc-generator": (
        EWCGeneratorPlugin,
        EWCGeneratorModule,
        {**CONDITIONAL, "fisher_samples": 8},
    ),
    "gan-replay": (GANReplayPlugin, GANReplayModule, CONDITIONAL),
    "pseudo-rehearsal": (PseudoRehearsalPlugin, PseudoRehearsalModule, {}),
    "class-means": (plugin_of(ClassMeans), module_of(ClassMeans), {"noise": 0.2}),
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
    "latent-vae",
    "dynamic-memory-weights",
    "dynamic-memory-accelerated",
    "mergan-alignment",
    "ewc-generator",
    "gan-replay",
}
MAIN = [name for name in BACKENDS if name not in VARIANTS]


def made(name, which, model, **settings):
    """A plugin (0) or a module (1), with a layer to cut behind where it needs to be told."""
    kind, hyper = BACKENDS[name][which], BACKENDS[name][2]
    if not hasattr(model, "features"):
        norm = next((n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm1d)), None)
        if name.startswith("latent"):
            hyper = {**hyper, "layer": norm}
        elif name == "altm-latent":
            hyper = {**hyper, "source": {"layer": norm, "per_class": 8}}
    return kind(*([model] if which else []), **settings, **hyper)


def look(method):
    """What a method remembers, where it remembers samples."""
    if not isinstance(method, Inspectable):
        return None
    try:
        return method.sample(12).images
    except UnknownTaskError:
        return None
