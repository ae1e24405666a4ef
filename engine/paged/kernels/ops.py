"""The fused kernels as the `Ops` that a decoder takes on a GPU."""

from dataclasses import dataclass

from torch import Tensor

from engine.paged.kernels import rope_store, rows


@dataclass(frozen=True, slots=True)
class TritonOps:
    """One launch for each operation; numbers are rounded once, where plain torch rounds twice."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rows.rms_norm_triton(x, weight, eps)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        return rows.add_rms_norm_triton(x, residual, weight, eps)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rope_store.rotate_triton(x, cos, sin)

    def gated(self, gate_up: Tensor, activation: rows.Activation) -> Tensor:
        return rows.gated_triton(gate_up, activation)
