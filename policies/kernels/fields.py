"""Responses of receptive fields as one differentiable function; CPU, float32, needs numba."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from policies.kernels.guard import refuse_second_derivative


class _Responses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, obs: Tensor, fields: Tensor, widths: Tensor, least: float) -> Tensor:
        from policies.kernels.numba_fields import exponents

        obs = obs.contiguous()
        out = obs.new_empty(len(obs), fields.numel())
        exponents(
            obs.numpy(),
            fields.detach().reshape(-1).numpy(),
            widths.detach().reshape(-1).numpy(),
            np.float32(least),
            out.numpy(),
        )
        out.exp_()
        ctx.save_for_backward(obs, fields, widths, out)
        ctx.least = least
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        from policies.kernels.numba_fields import gradients

        refuse_second_derivative()
        obs, fields, widths, response = ctx.saved_tensors
        of_obs, of_fields, of_widths = (x.new_empty(x.shape) for x in (obs, fields, widths))
        gradients(
            obs.numpy(),
            fields.reshape(-1).numpy(),
            widths.reshape(-1).numpy(),
            np.float32(ctx.least),
            response.numpy(),
            grad_outputs[0].contiguous().numpy(),
            of_obs.numpy(),
            of_fields.view(-1).numpy(),
            of_widths.view(-1).numpy(),
        )
        return of_obs, of_fields, of_widths, None


def responses(obs: Tensor, fields: Tensor, widths: Tensor, least: float) -> Tensor:
    """exp(-(obs - field)^2 / (2 width^2)) of obs [B, F] and fields, widths [F, P]: [B, F * P].

    NaN where an observation, a field or a width is NaN or infinite; variances below `least` count
    as `least`. The same bits as PyTorch's operations one by one.
    """
    out = _Responses.apply(obs, fields, widths, least)  # type: ignore[no-untyped-call]  # torch's
    return cast(Tensor, out)
