"""capgpu's self-critical step; mode is the backend, job a whole step or its reward alone."""

from __future__ import annotations

import numpy as np

from bench.peers.ours import OurTask, versions
from bench.workloads import Workload, self_critical_workload, training_references
from capgpu.training.self_critical import Critic, SelfCritical

__all__ = ["SelfCriticalTask", "make_task", "versions"]

SAMPLES = 5


class SelfCriticalTask(OurTask):
    """Draw 5 captions a picture, score them by CIDEr-D, and update the parameters with Adam; or score them only."""

    def __init__(self, mode: str, work: Workload, job: str) -> None:
        work = self_critical_workload(work)
        super().__init__(mode, work, "adam")
        self.job, self.work = job, work
        captions, images = training_references(work)
        features = np.zeros((images[-1] + 1, 1), np.float32)  # not read
        data = {"train_captions": captions, "train_image_idxs": images, "train_features": features}
        self.critic = Critic(SelfCritical(samples=SAMPLES, max_length=work.size.T), self.model, data)
        self.images = np.arange(len(work.features))
        self.drawn = self.critic.draw(self.model, self.features, self.images, 0)

    def step(self) -> None:
        """Do the job once."""
        if self.job == "reward":
            self.critic.rewards(self.drawn.captions[:, 1:], np.repeat(self.images, SAMPLES))
            return
        self.steps += 1
        self.drawn = drawn = self.critic.draw(self.model, self.features, self.images, self.steps)
        _, grads = self.model.loss(drawn.features, drawn.captions, weights=drawn.weights)
        self.optimizer.step(self.model.params, grads)

    def result(self) -> dict[str, np.ndarray]:
        """Return the rewards of fixed captions: the references of other pictures."""
        captions, _ = training_references(self.work)
        return {"rewards": self.critic.rewards(captions[500:820, 1:], np.repeat(self.images, SAMPLES))}


def make_task(mode: str, work: Workload, job: str) -> SelfCriticalTask:
    """Return the task on backend `mode`."""
    return SelfCriticalTask(mode, work, job)
