"""The method's losses: one function an equation (method, sections 3 and 5), and what feeds each from a batch.

z_t = a z_0 + s eps, with a and s of the base's schedule at t. Norms are means over all values of a latent.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tambour.base import Base, base_only
from tambour.base.passes import Passes
from tambour.training.pairs import Batch, join
from tambour.training.routing import RoutedModel

SNR_LIMIT = 5.0  # gamma of min-SNR (Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy")


# -- equations --------------------------------------------------------------------------------------------------------


def squared_error(target: torch.Tensor, predicted: torch.Tensor, counts: torch.Tensor | None = None) -> torch.Tensor:
    """|| target - predicted ||^2 of each row: (B, c, h, w) twice -> (B,).

    `counts` (B, 1, h, w): how much a place counts (ours, section 11). A row's mean is taken over what counts in an
    average row, so that rows with few stitches weigh little.
    """
    errors = (target.float() - predicted.float()).square()
    if counts is not None:
        errors = errors * counts / counts.mean().clamp_min(1e-3)
    return errors.flatten(1).mean(1)


def noise_error(
    prediction_type: str,
    output: torch.Tensor,
    z0: torch.Tensor,
    eps: torch.Tensor,
    a: torch.Tensor,
    s: torch.Tensor,
    loss: str = "noise",
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_des and L_emb of each row, || eps - eps_theta(z_t, t, c) ||^2 (section 3), from a model's raw output.

    Taken in the space the model predicts in, where no small number is divided by:
    - "epsilon": as written.
    - "v_prediction", v = a eps - s z_0: eps_theta = a v_theta + s z_t, so the same loss is a^2 || v - v_theta ||^2.
    - "sample": eps_theta = (z_t - a x_theta) / s, so the same loss is SNR || z_0 - x_theta ||^2 with SNR = a^2 / s^2.
      That reaches 1,000 where there is hardly any noise left to remove, and those few steps would drown all others;
      so the weight is min(SNR, 5): the paper's loss at every t where stitches are formed, bounded beyond.

    Args:
        output: (B, c, h, w), as `Base.predict` gives it.
        z0, eps: clean latents and noise (B, c, h, w).
        a, s: (B,).
        loss: "noise", the paper's; "output" leaves the weights a^2 and SNR out (ours): on a base that predicts v or z_0
            much noise, where stitches take shape, then counts as much as little.
        counts: as in `squared_error`.

    Returns: (B,).
    """
    if prediction_type == "epsilon":
        return squared_error(eps, output, counts)
    if prediction_type == "sample":
        weight = (a / s).square().clamp(max=SNR_LIMIT) if loss == "noise" else 1.0
        return weight * squared_error(z0, output, counts)
    a4, s4 = (value.view(-1, 1, 1, 1) for value in (a, s))
    return (a.square() if loss == "noise" else 1.0) * squared_error(a4 * eps - s4 * z0, output, counts)


def style_residual(eps_emb: torch.Tensor, eps_des: torch.Tensor) -> torch.Tensor:
    """eps_emb* = eps_emb - eps_des (section 5): pure style, the content subtracted."""
    return eps_emb - eps_des


def similarity(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """s(x, y) (section 5): cosine of each row taken as one vector, (B, c, h, w) twice -> (B,)."""
    return F.cosine_similarity(x.float().flatten(1), y.float().flatten(1))


def contrastive_loss(
    eps_des_ref: torch.Tensor,
    eps_emb_ref: torch.Tensor,
    eps_des_gen: torch.Tensor,
    eps_emb_gen: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """L_con of each row (section 5), all arguments (B, c, h, w) in noise space with the base's prediction subtracted:

    -log [ exp s(eps_emb*^ref, eps_emb*^gen) / (exp s(eps_emb*^ref, eps_des^gen) + exp s(eps_des^ref, eps_emb*^gen)) ],
    every s divided by the temperature. As in the paper the positive pair is not part of the denominator, so the loss
    may become negative: its range is log 2 -+ 2 / temperature.
    """
    star_ref, star_gen = style_residual(eps_emb_ref, eps_des_ref), style_residual(eps_emb_gen, eps_des_gen)
    positive = similarity(star_ref, star_gen) / temperature
    negatives = torch.stack([similarity(star_ref, eps_des_gen), similarity(eps_des_ref, star_gen)]) / temperature
    return torch.logsumexp(negatives, 0) - positive


# -- from a model, a batch and a generator ----------------------------------------------------------------------------


def draw_timesteps(base: Base, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` training timesteps, uniform over those that hold both signal and noise (a zero-SNR end is left out)."""
    alphas = base.scheduler.alphas_cumprod.cpu()
    usable = torch.nonzero((alphas > 1e-6) & (alphas < 1 - 1e-6)).flatten()
    return usable[torch.randint(len(usable), (count,), generator=generator)].to(base.device)


def draw_noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise in the shape of `like`, float32, the same on every device."""
    return torch.randn(like.shape, generator=generator).to(like.device)


def signal_and_noise(base: Base, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a and s at timesteps t, each (B,), float32."""
    alphas = base.scheduler.alphas_cumprod.cpu().float()[t.cpu()].to(base.device)
    return alphas.sqrt(), (1 - alphas).sqrt()


def denoising(model: RoutedModel, batch: Batch, generator: torch.Generator, *, style: bool) -> torch.Tensor:
    """L_des (`style` False: designs, c_des) or L_emb (True: embroideries, c_emb routed) of each row, (B,)."""
    base = model.base
    z0 = (batch.embroidery if style else batch.design).float()
    t = draw_timesteps(base, len(batch), generator)
    eps = draw_noise(z0, generator)
    a, s = signal_and_noise(base, t)
    z = a.view(-1, 1, 1, 1) * z0 + s.view(-1, 1, 1, 1) * eps
    output = model.predict(z, t, batch, style=style)
    return noise_error(base.prediction_type, output, z0, eps, a, s, model.loss, batch.stitches if style else None)


def denoising_passes(rows: int, controlnet: bool) -> Passes:
    """What `denoising` runs on a batch of so many rows, with or without a ControlNet."""
    return Passes(rows=rows, forward=1, backward=1, controlnet=int(controlnet))


def contrast(
    model: RoutedModel, ref: Batch, gen: Batch, generator: torch.Generator, temperature: float = 1.0
) -> torch.Tensor:
    """L_con of the reference pair and a generated pair (section 5), a scalar; gradients flow through every eps.

    The paper leaves open: which noise and t the pairs get (here the same for both, so that what differs is the
    pairs' and not the draw's), and which blocks are given c_emb (here the style blocks, as in L_emb, for theta_0
    and for theta_0, theta_a alike). Cosines do not see the factor a / s by which an x0 base's difference in output
    becomes a difference in noise; the few t without signal or noise, where it is 0 or infinite, are never drawn.
    """
    base, unet = model.base, model.base.unet
    both = join(ref, gen)  # rows: ref, then gen
    z0 = both.design.float()
    t = draw_timesteps(base, len(ref), generator).repeat(2)
    eps = draw_noise(ref.design, generator).repeat(2, 1, 1, 1)
    a, s = signal_and_noise(base, t)
    z = a.view(-1, 1, 1, 1) * z0 + s.view(-1, 1, 1, 1) * eps
    residuals = model.structure(z, t, both, style=True)

    def noises() -> tuple[torch.Tensor, torch.Tensor]:
        des, emb = model.predict_both(z, t, both, residuals=residuals)
        return base.to_epsilon(des, z, t).float(), base.to_epsilon(emb, z, t).float()

    with torch.no_grad(), base_only(unet):
        base_des, base_emb = noises()
    eps_des, eps_emb = noises()
    counts = 1.0 if both.stitches is None else both.stitches
    eps_des, eps_emb = (eps_des - base_des) * counts, (eps_emb - base_emb) * counts
    (des_ref, des_gen), (emb_ref, emb_gen) = eps_des.chunk(2), eps_emb.chunk(2)
    return contrastive_loss(des_ref, emb_ref, des_gen, emb_gen, temperature).mean()


def contrast_passes(rows: int, controlnet: bool) -> Passes:
    """What `contrast` runs on two batches of so many rows: theta_0 and theta_0, theta_a, each under both prompts."""
    return Passes(rows=2 * rows, forward=4, backward=2, controlnet=int(controlnet))
