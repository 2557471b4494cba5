"""The settings of torch that a call can leave changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules import module as _modules

from gradcheck.judging.isolation.setting import Setting, changed, is_left

__all__ = ["TORCH"]


_kept: list[Any] = []  # inference modes that were entered to undo others; they end with the process


def _put_inference_mode(value: bool) -> None:
    mode = torch.inference_mode(value)
    mode.__enter__()
    _kept.append(mode)


_AUTOCAST = ("cpu", "cuda")


def _nesting() -> int:
    torch.autocast_increment_nesting()
    return int(torch.autocast_decrement_nesting())


def _autocast() -> tuple[Any, ...]:
    each = tuple((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _AUTOCAST)
    return (*each, torch.is_autocast_cache_enabled(), _nesting())


def _put_autocast(value: tuple[Any, ...]) -> None:
    *each, cache, nesting = value
    for device, (enabled, dtype) in zip(_AUTOCAST, each, strict=True):
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_cache_enabled(cache)
    while _nesting() > nesting:
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()


def _autocast_words(before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    on = [d for d, a, b in zip(_AUTOCAST, before[:-2], after[:-2], strict=True) if b[0] and not a[0]]
    return f"left autocast on ({', '.join(on)})" if on else "changed the settings of autocast"


def _device_context() -> Any:
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def _put_device_context(value: Any) -> None:
    torch._GLOBAL_DEVICE_CONTEXT.device_context = value  # its mode is on the stack, which is put back beside this


def _device_words(before: Any, after: Any) -> str:
    old, new = (getattr(x, "device", "cpu") for x in (before, after))
    return f"changed the default device from {old} to {new}"


def _stack(kind: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    length: Callable[[], int] = getattr(torch._C, f"_len_torch_{kind}_stack")
    at: Callable[[int], Any] = getattr(
        torch._C, "_get_function_stack_at" if kind == "function" else "_get_dispatch_stack_at"
    )
    pop: Callable[[], Any] = getattr(torch._C, f"_pop_torch_{kind}_stack")
    push: Callable[[Any], None] = getattr(torch._C, f"_push_on_torch_{kind}_stack")

    def get() -> list[Any]:
        return [at(i) for i in range(length())]

    def put(value: list[Any]) -> None:
        while length():
            pop()
        for mode in value:
            push(mode)

    return get, put


def _saved_tensor_hooks() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _put_saved_tensor_hooks(value: Any) -> None:
    for _ in range(1000):
        if _saved_tensor_hooks() == value:
            return
        torch._C._autograd._pop_saved_tensors_default_hooks()


_HOOKS = [name for name, value in vars(_modules).items() if name.startswith("_global") and isinstance(value, dict)]


def _module_hooks() -> dict[str, dict[Any, Any]]:
    return {name: dict(getattr(_modules, name)) for name in _HOOKS if getattr(_modules, name)}


def _put_module_hooks(value: dict[str, dict[Any, Any]]) -> None:
    for name in _HOOKS:
        hooks = getattr(_modules, name)
        hooks.clear()
        hooks.update(value.get(name, {}))


def _cudnn() -> tuple[bool, ...]:
    return tuple(bool(getattr(torch._C, f"_get_cudnn_{name}")()) for name in ("enabled", "benchmark", "deterministic"))


def _put_cudnn(value: tuple[bool, ...]) -> None:
    for name, one in zip(
        ("_set_cudnn_enabled", "_set_cudnn_benchmark", "_set_cudnn_deterministic"), value, strict=True
    ):
        getattr(torch._C, name)(one)


_tiny = [5e-324]  # in a list, so that no compiler multiplies it ahead of time


def _flushes_denormals() -> bool:
    return _tiny[0] * 1.0 == 0.0


TORCH: dict[str, Setting] = {
    "grad mode": Setting(torch.is_grad_enabled, torch.set_grad_enabled, changed("the global grad mode")),
    "dtype": Setting(torch.get_default_dtype, torch.set_default_dtype, changed("the default dtype")),
    "threads": Setting(torch.get_num_threads, torch.set_num_threads, changed("the number of threads")),
    "deterministic": Setting(
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        changed("torch's deterministic mode"),
    ),
    "inference mode": Setting(torch.is_inference_mode_enabled, _put_inference_mode, is_left("inference mode on")),
    "autocast": Setting(_autocast, _put_autocast, _autocast_words),
    "device": Setting(_device_context, _put_device_context, _device_words),
    "function modes": Setting(*_stack("function"), is_left("a torch function mode on")),
    "dispatch modes": Setting(*_stack("dispatch"), is_left("a torch dispatch mode on")),
    "saved-tensor hooks": Setting(_saved_tensor_hooks, _put_saved_tensor_hooks, is_left("saved-tensor hooks on")),
    "module hooks": Setting(_module_hooks, _put_module_hooks, is_left("global module hooks")),
    "anomaly mode": Setting(
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
        lambda before, after: "left anomaly mode on" if after[0] and not before[0] else "changed anomaly mode",
    ),
    "matmul precision": Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, changed("the float32 matmul precision")
    ),
    "cuDNN": Setting(_cudnn, _put_cudnn, changed("cuDNN's settings (enabled, benchmark, deterministic)")),
    "denormals": Setting(_flushes_denormals, torch.set_flush_denormal, is_left("denormal numbers flushed to 0")),
}
"""Setting of torch → how it is read, put back, and told."""
