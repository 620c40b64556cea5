"""Small torch networks with flat float64 parameters and per-patient gradients by Opacus.

Torch is imported here and nowhere else, so that a plan without a network never pays for it.
The start is public: a seeded initialisation that every site and the coordinator can make.
Only layers whose per-sample gradients are proven take part (an allow-list); losses are one
number per row, since Opacus' other shapes broadcast and break the bound.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from ...privacy.clipping import clipped_sum
from ...privacy.errors import PolicyError
from ..analysis import Vector

__all__ = ["Network", "network"]

_ALLOWED = (nn.Sequential, nn.Linear, nn.Tanh, nn.ReLU)


class Network:
    """A stack of linear layers and tanh, seen as a function of one flat vector.

    Args:
        widths: Units per layer, inputs first, outputs last.
        seed: Public seed of the initial weights.
        output_bias: Start of every output's bias.
    """

    def __init__(self, widths: Sequence[int], seed: int, output_bias: float) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for inputs, outputs in itertools.pairwise(widths):
                layers += [nn.Linear(inputs, outputs, dtype=torch.float64), nn.Tanh()]
            self._module = nn.Sequential(*layers[:-1])
        last = layers[-2]
        with torch.no_grad():
            last.bias.fill_(output_bias)  # type: ignore[operator]
        refuse_unknown_layers(self._module)
        self.initial = _flat(self._module)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return int(self.initial.size)

    def outputs(self, theta: Vector, features: Vector) -> Vector:
        """Return the network's outputs, float64 [rows, outputs]."""
        with torch.no_grad():
            answer = self._loaded(theta)(torch.from_numpy(features))
        return np.asarray(answer.numpy(), dtype=np.float64)

    def gradient(self, theta: Vector, features: Vector, targets: Vector, at_risk: Vector) -> Vector:
        """Return the gradient of the summed cross-entropy, float64 [size]."""
        module = self._loaded(theta)
        module.zero_grad()
        _loss(module, features, targets, at_risk).sum().backward()  # type: ignore[no-untyped-call]
        grads = [parameter.grad for parameter in module.parameters()]
        return np.concatenate([g.numpy().ravel() for g in grads if g is not None])

    def clipped_gradient(
        self,
        theta: Vector,
        features: Vector,
        targets: Vector,
        at_risk: Vector,
        patient_index: np.ndarray,
        clip_norm: float,
    ) -> Vector:
        """Return the sum over patients of gradients clipped to an L2 norm, float64 [size]."""
        module = self._loaded(theta)  # bad parameters fail without a patient, too
        if features.shape[0] == 0:
            return np.zeros(self.size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about hooks that Opacus needs
            from opacus.grad_sample import GradSampleModule

            wrapped = GradSampleModule(module, loss_reduction="sum")
            try:
                losses = _loss(wrapped, features, targets, at_risk)
                if losses.ndim != 1:
                    raise PolicyError("loss_shape", "a private loss must be one number per row")
                losses.sum().backward()  # type: ignore[no-untyped-call]
                rows = np.concatenate(
                    [
                        parameter.grad_sample.numpy().reshape(features.shape[0], -1)
                        for parameter in wrapped.parameters()
                    ],
                    axis=1,
                )
            finally:
                wrapped.to_standard_module()  # the network is shared: no hook stays on it
        return clipped_sum(rows, patient_index, clip_norm)

    def _loaded(self, theta: Vector) -> nn.Module:
        vector = torch.from_numpy(np.ascontiguousarray(theta, dtype=np.float64))
        nn.utils.vector_to_parameters(vector.clone(), self._module.parameters())
        return self._module


def refuse_unknown_layers(module: nn.Module) -> None:
    """Refuse layers whose per-patient gradient is unproven: BatchNorm mixes patients, ties share.

    Raises:
        PolicyError: `layer_not_allowed`.
    """
    for layer in module.modules():
        if type(layer) not in _ALLOWED:  # a subclass may compute anything
            raise PolicyError(
                "layer_not_allowed",
                f"the layer {type(layer).__name__} is not on the list of proven layers",
                hint="Use Linear layers with tanh or ReLU.",
            )
    # Of a weight used in two places, per-sample gradients are not simply one more entry.
    used = [id(weight) for _, weight in module.named_parameters(remove_duplicate=False)]
    if len(used) != len(set(used)):
        raise PolicyError(
            "layer_not_allowed",
            "a weight is used in two places of the network",
            hint="Give every layer weights of its own.",
        )


@lru_cache(maxsize=8)
def network(widths: tuple[int, ...], seed: int, output_bias: float) -> Network:
    """Return the network of these public constants, made once a process."""
    return Network(widths, seed, output_bias)


def _flat(module: nn.Module) -> Vector:
    return np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])


def _loss(module: nn.Module, features: Vector, targets: Vector, at_risk: Vector) -> torch.Tensor:
    """Cross-entropy summed over the outputs at risk: one number per row."""
    logits = module(torch.from_numpy(features))
    each = nn.functional.binary_cross_entropy_with_logits(
        logits, torch.from_numpy(targets), reduction="none"
    )
    return (each * torch.from_numpy(at_risk)).sum(dim=1)
