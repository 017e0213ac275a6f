"""How the network is spread and what it recomputes: DDP, FSDP2, checkpointing, compilation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from vmt.engine.optimizer import parameter_names
from vmt.modeling.video_model import VideoModel
from vmt.utils import comm
from vmt.utils.errors import ConfigError


def repeated_layers(model: VideoModel) -> list[nn.Module]:
    """Stages of network and backbone with something to train."""
    layers = [*model.stages(), *model.backbone_stages()]
    return [layer for layer in layers if any(p.requires_grad for p in layer.parameters())]


def recompute_activations(model: VideoModel) -> int:
    """Forget what ``repeated_layers`` computed inside and compute it again for the gradient.

    Changes memory and time, no result. Returns the number of layers.

    Raises:
        ConfigError: there are none.
    """
    layers = repeated_layers(model)
    if not layers:
        raise ConfigError(
            "ENGINE.ACTIVATION_CHECKPOINTING has nothing to recompute: all stages of this network "
            "are frozen; set false."
        )
    for layer in layers:
        forward = layer.forward
        setattr(layer, "forward", functools.partial(_recomputed, layer, forward))  # noqa: B010
    return len(layers)


def _recomputed(layer: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not (layer.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def compile_layers(model: VideoModel) -> None:
    """Hand the stages of a network to torch.compile; all else stays eager.

    The backbone too: sizes change from clip to clip, and with them as symbols its backward pass
    takes torch more than ten minutes to compile. Names of parameters do not change.

    Raises:
        ConfigError: it has none.
    """
    layers = model.stages()
    if not layers:
        raise ConfigError(
            "ENGINE.COMPILE compiles a network's stages, and this one has none beyond its "
            "backbone; set false."
        )
    for layer in layers:
        layer.compile(dynamic=True)


def distribute(model: VideoModel, kind: str, device: torch.device) -> nn.Module:
    """Spread a network over the processes of the run.

    A batch without objects leaves mask head and refiner without a gradient, in one process and not
    in another, and every process must reduce the same gradients. So all parameters are tied to the
    losses with a zero gradient: cheaper than ``find_unused_parameters``, and it serves FSDP too.

    Args:
        model: on its device; FSDP changes it in place.
        kind: ``ENGINE.PARALLEL``.
        device: of this process.

    Returns:
        What to call in training.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in ("ddp", "fsdp"):
        raise ConfigError(f"ENGINE.PARALLEL must be 'ddp' or 'fsdp', not {kind!r}.")
    if comm.world_size() == 1:
        return model
    if kind == "ddp":
        return data_parallel(model, device)
    stages = model.stages()
    prefixes = tuple(f"{name}." for name, part in model.named_modules() if part in stages)
    model.register_forward_hook(functools.partial(_tie_parameters, prefixes))
    # Without a mesh, torch takes the GPUs of a machine that has some, also for a run on its CPUs.
    mesh = init_device_mesh(device.type, (comm.world_size(),))
    for layer in stages:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def data_parallel(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """DDP around a module that gives losses by name; see ``distribute``."""
    model.register_forward_hook(functools.partial(_tie_parameters, ()))
    # Buffers never change; torch 2.15 renamed the switch that would send them every step.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    switch = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {switch: False, "gradient_as_bucket_view": True}
    if device.type == "cuda":
        options["device_ids"] = [device]
    return DistributedDataParallel(model, **options)


class _Tie(torch.autograd.Function):
    """Identity in its first input; the others get a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.shapes = [(p.shape, p.dtype) for p in parameters]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = grads[0]
        zeros = (grad.new_zeros((), dtype=dtype).expand(shape) for shape, dtype in ctx.shapes)
        return (grad, *zeros)


def _tie_parameters(
    sharded: tuple[str, ...], model: nn.Module, _: Any, losses: Any
) -> dict[str, Tensor] | None:
    if not (model.training and torch.is_grad_enabled() and isinstance(losses, dict)):
        return None
    parameters = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not (sharded and name.startswith(sharded))
    ]
    name = next(iter(losses))
    return {**losses, name: _Tie.apply(losses[name], *parameters)}


def fill_missing_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Zero gradients where there are none, so that one process does what several do."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def whole(value: Any) -> Any:
    """A tensor that every process holds in full, on the CPU, as a copy; other values as they are.

    Collective for sharded tensors: every process must ask.
    """
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def like_parameter(value: Any, parameter: Tensor) -> Any:
    """A whole tensor spread as ``parameter`` is, if it has its shape."""
    if not isinstance(value, Tensor):
        return value
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """State dict of whole tensors on the CPU; collective."""
    return {name: whole(value) for name, value in model.state_dict().items()}


def load_model_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill a network, sharded or not, from whole tensors with exactly its names."""
    own = model.state_dict()
    placed = {name: like_parameter(value, own[name]) for name, value in state.items()}
    model.load_state_dict(placed, strict=True)


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """State by parameter name, as whole tensors on the CPU; collective."""
    content = optimizer.state_dict()
    by_name = {
        name: {key: whole(value) for key, value in content["state"][index].items()}
        for index, name in enumerate(parameter_names(optimizer))
        if index in content["state"]
    }
    groups = [
        {k: v for k, v in group.items() if k not in ("params", "param_names")}
        for group in content["param_groups"]
    ]
    return {"state": by_name, "groups": groups}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Take over moments and step counts; learning rates come from the config and the step."""
    content = optimizer.state_dict()
    parameters = list(_parameters(optimizer))
    content["state"] = {
        index: {k: like_parameter(v, parameter) for k, v in state["state"][name].items()}
        for index, (name, parameter) in enumerate(parameters)
        if name in state["state"]
    }
    optimizer.load_state_dict(content)


def _parameters(optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)
