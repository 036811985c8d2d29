"""The training loop of all teachers (2012.14936, section 1.5 of the released code).

One iteration: a batch x of data; z ~ N(0, I); chains from the teacher's start, K Langevin steps
under the present energy, detached; one Adam step of the energy; then the generator's Adam steps on
the same revised samples. No gradient passes through the chains, and none from the generator's loss
to the energy. A VAE has the last part alone, on the data.

Guaranteed: with the same streams every teacher sees the same data in the same order. Not
guaranteed: convergence. The gap mean f(x) - mean f(x~) is kept for every iteration and should hover
about zero; a run whose gap passes `explosion`, or is no number, has diverged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lmcnb.errors import UsageError
from lmcnb.methods.mcmc_teaching import (
    call,
    energy_loss,
    infer,
    regression_loss,
    vae_loss,
)
from lmcnb.methods.mcmc_teaching_data import Draw, Networks, Streams
from lmcnb.methods.mcmc_teaching_graph import Revision
from lmcnb.methods.mcmc_teaching_settings import Teaching
from lmcnb.methods.mcmc_teaching_teachers import TEACHERS
from lmcnb.methods.stopwatch import Stopwatch
from lmcnb.models.energy import density


class Trainer:
    """A run; `step` is one iteration, `state_dict` all that a resume needs.

    Attributes:
        energy, encoder, decoder: the networks, None where the teacher has none.
        chains: persistent chains `(pool, dim)`, or None.
        done: iterations so far.
        gaps, losses: mean f(x) - mean f(x~), and the generator's last loss, of every iteration.
        watch: its `seconds` are those of the updates.
        curve: what the monitor returned.
    """

    def __init__(
        self,
        teaching: Teaching,
        networks: Networks,
        draw: Draw,
        streams: Streams,
        monitor: Callable[[Trainer], dict[str, Any]] | None = None,
        monitor_every: int = 200,
    ) -> None:
        """Take the networks as they are, and move them to the streams' device.

        Args:
            teaching: the method and its settings.
            networks: drawn before; the energy, the encoder and the decoder.
            draw: gives n data points and their conditions, from a random generator.
            streams: random generators.
            monitor: called before the first iteration, every `monitor_every` and after the last;
                what it returns is kept in `curve`, and its time is not counted.
            monitor_every: iterations.

        Raises:
            UsageError: a network that the teacher needs is lacking; conditions with another number
                of chains than of data points, or with persistent chains.
        """
        t, who = teaching, TEACHERS[teaching.teacher]
        self.teaching, self.streams, self.draw = t, streams, draw
        self.device = streams.noise.device
        needed = networks.needed_by(t.teacher)
        self.energy, self.encoder, self.decoder = (
            None if net is None else net.to(self.device) for net in needed
        )
        probe = draw(2, torch.Generator(streams.data.device).manual_seed(0))
        if probe.c is not None and t.chains != t.batch:
            raise UsageError(
                f"chains={t.chains}, batch={t.batch}: with conditions both must be equal, a chain "
                "for every condition of the batch"
            )
        if probe.c is not None and who.start == "persistent":
            raise UsageError(
                "teacher='persistent': chains that persist have no conditions of their own; with "
                "conditions another teacher is needed"
            )
        self.dim, self.dtype = probe.x.shape[-1], probe.x.dtype
        self.chains = self.noise_start(t.pool) if who.start == "persistent" else None
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        if self.energy is not None:
            of = [*self.energy.parameters()]
            self.optimizers["energy"] = adam(of, t.energy_rate, t.first_beta)
        if self.decoder is not None:
            of = [*self.decoder.parameters()]
            of += [] if self.encoder is None else [*self.encoder.parameters()]
            self.optimizers["generator"] = adam(of, t.generator_rate, t.first_beta)
        self._revision = Revision(self.device)
        self.gaps, self.losses = (torch.zeros(t.iterations, device=self.device) for _ in range(2))
        self.done, self.watch = 0, Stopwatch(self.device)
        self.monitor, self.monitor_every = monitor, max(1, monitor_every)
        self.curve: list[dict[str, Any]] = []

    def step(self) -> None:
        """One iteration; refused beyond `iterations`."""
        t, who = self.teaching, TEACHERS[self.teaching.teacher]
        if self.done >= t.iterations:
            raise UsageError(f"step: all {t.iterations} iterations are done")
        if self.done == 0 and not self.curve:
            self._look()
        self.watch.start()
        x, c = self.draw(t.batch, self.streams.data)
        positives = x
        if t.data_noise:  # from the stream of the data: the same for every teacher
            positives = x + t.data_noise * torch.randn(
                x.shape, generator=self.streams.data, device=x.device, dtype=x.dtype
            )

        z, start, rows = self.begin(t.chains, c)
        taught = x
        if start is not None and self.energy is not None:
            taught = self.revised(start, c)
            if self.chains is not None:
                self.chains[rows] = taught
            self._teach_energy(taught, positives, c)

        if self.decoder is not None:
            if who.latent == "langevin" and z is not None:
                z = self.inferred(z, taught, c)
            for _ in range(t.generator_steps):
                self._teach_generator(z, taught, c)
        self.done += 1
        if self.done % self.monitor_every == 0 or self.done == t.iterations:
            self._look()

    def begin(
        self, n: int, c: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Latents and starts x_0 of `n` chains, and which of the persistent chains they are."""
        t, start = self.teaching, TEACHERS[self.teaching.teacher].start
        if start == "noise":
            return None, self.noise_start(n), None
        if start == "persistent" and self.chains is not None:
            order = torch.randperm(
                len(self.chains), generator=self.streams.noise, device=self.device
            )
            return None, self.chains[order[:n]], order[:n]
        if start is None or self.decoder is None:
            return None, None, None
        z = self.normal(n, self.latent)
        with torch.no_grad():
            x = call(self.decoder, z, c)
        return z, x + t.sigma * self.normal(*x.shape) if t.ancestral else x, None

    def revised(self, x: Tensor, c: Tensor | None = None, steps: int | None = None) -> Tensor:
        """x_K of chains from `x` under the present energy."""
        t, steps = self.teaching, self.teaching.steps if steps is None else steps
        assert self.energy is not None
        noise = self.normal(steps, *x.shape) if t.noisy else None
        target = density(self.energy, t.reference, c)
        return self._revision(target, x, t.step_size, steps, noise)

    def inferred(self, z: Tensor, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Latents after L Langevin steps given x."""
        t = self.teaching
        assert self.decoder is not None
        noise = self.normal(t.inference_steps, *z.shape)
        return infer(
            self.decoder, z, x, t.sigma, t.inference_step_size, noise, t.inference_steps, c
        )

    def _teach_energy(self, revised: Tensor, x: Tensor, c: Tensor | None) -> None:
        t = self.teaching
        assert self.energy is not None
        loss = energy_loss(self.energy, revised, x, c, c)
        self._update("energy", loss, t.energy_rate)
        self.gaps[self.done] = -loss.detach()

    def _teach_generator(self, z: Tensor | None, x: Tensor, c: Tensor | None) -> None:
        t = self.teaching
        assert self.decoder is not None
        if self.encoder is not None:  # z is inferred anew from x
            noise = self.normal(len(x), self.latent)
            loss = vae_loss(self.posterior, self.decoder, x, noise, t.sigma, c)
        else:
            assert z is not None
            loss = regression_loss(self.decoder, z, x, c)
        self._update("generator", loss, t.generator_rate)
        self.losses[self.done] = loss.detach()

    def _update(self, name: str, loss: Tensor, rate: float) -> None:
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = rate * self.teaching.factor(self.done)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @property
    def posterior(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """The encoder, with dropout from the noise stream where it has some, always (the code)."""
        assert self.encoder is not None
        if getattr(self.encoder, "keep", 1.0) < 1:
            return partial(self.encoder, dropout=self.streams.noise)
        return self.encoder

    @property
    def latent(self) -> int:
        """Dimension of z."""
        return int(self.decoder.latent)  # type: ignore[union-attr, arg-type]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers from the noise stream."""
        return torch.randn(
            shape, generator=self.streams.noise, device=self.device, dtype=self.dtype
        )

    def noise_start(self, n: int) -> Tensor:
        """Starts of chains from noise, `(n, dim)`."""
        t = self.teaching
        if t.start == "normal":
            return t.start_std * self.normal(n, self.dim)
        u = torch.empty(n, self.dim, device=self.device, dtype=self.dtype)
        return u.uniform_(-t.start_std, t.start_std, generator=self.streams.noise)

    def _look(self) -> None:
        self.watch.stop()
        if self.monitor is not None:
            about = {"iteration": self.done, "seconds": self.watch.seconds}
            self.curve.append(about | self.monitor(self))

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the rest of the run, copied to the host."""
        self.watch.stop()
        return {
            "format": 1,
            "made_for": self._made_for(),
            "done": self.done,
            "seconds": self.watch.seconds,
            "curve": copy.deepcopy(self.curve),
            "chains": None if self.chains is None else self.chains.cpu().clone(),
            "kept": {k: getattr(self, k).cpu().clone() for k in ("gaps", "losses")},
            "networks": {name: _copied(net.state_dict()) for name, net in self._networks()},
            "optimizers": {k: copy.deepcopy(o.state_dict()) for k, o in self.optimizers.items()},
            "streams": [g.get_state() for g in self.streams],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back a `state_dict` of a trainer built with the same arguments.

        Raises:
            UsageError: an unknown format, or another training; nothing is changed.
        """
        if state.get("format") != 1:
            raise UsageError(f"checkpoint: unknown format {state.get('format')!r}; start afresh")
        for name, value in self._made_for().items():
            theirs = state["made_for"].get(name)
            if theirs != value:
                raise UsageError(f"checkpoint: made for {name} = {theirs}, not {value}")
        for stream, saved in zip(self.streams, state["streams"], strict=True):
            stream.set_state(saved)
        for name, net in self._networks():
            net.load_state_dict(state["networks"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(copy.deepcopy(state["optimizers"][name]))
        for name, kept in state["kept"].items():
            getattr(self, name).copy_(kept)
        if self.chains is not None:
            self.chains.copy_(state["chains"])
        self.done, self.curve = int(state["done"]), copy.deepcopy(state["curve"])
        self.watch.reset(float(state["seconds"]))

    def _networks(self) -> list[tuple[str, nn.Module]]:
        named = [(n, getattr(self, n)) for n in ("energy", "encoder", "decoder")]
        return [(name, net) for name, net in named if net is not None]

    def _made_for(self) -> dict[str, str]:
        own = {f.name: repr(getattr(self.teaching, f.name)) for f in fields(self.teaching)}
        sizes = {n: sum(p.numel() for p in net.parameters()) for n, net in self._networks()}
        return own | {"networks": repr(sizes), "dim": repr(self.dim), "dtype": repr(self.dtype)}

    def diverged_at(self) -> list[int | None]:
        """The iteration (from 1) at which the run exploded, or None; a list of one.

        A gap of energies past `explosion`, or a gap or loss that is no number.
        """
        gaps, losses = self.gaps[: self.done], self.losses[: self.done]
        bad = ~(gaps.abs() <= self.teaching.explosion) | ~torch.isfinite(losses)
        at = bad.nonzero()
        return [int(at[0]) + 1 if len(at) else None]


def adam(parameters: list[nn.Parameter], rate: float, first_beta: float) -> torch.optim.Adam:
    """Adam in one kernel."""
    return torch.optim.Adam(parameters, lr=rate, betas=(first_beta, 0.999), fused=True)


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().clone() for k, v in state.items()}
