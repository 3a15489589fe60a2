"""In reinforcement learning there is no data set: the policy that is trained makes each batch itself, by playing.
Elsewhere that calls for a data set that wraps the environment, or a loop of one's own. Here any iterable is a loader,
and it is never read ahead: a generator plays an episode when the loop asks for it, with the policy as it is then.

    python examples/cartpole.py

REINFORCE (Williams 1992) balances the pole of Gymnasium's CartPole-v1, where an episode gives a reward of 1 for each
move until the pole falls, and 500 at most. A step uses the episodes of one window, each move counting the same.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import gymnasium
import torch
from torch import Tensor, nn

from ignition import Trainer, make_var, optimize, seed_everything

DISCOUNT, EPISODES = 0.99, 4


class Play:
    """Episodes as batches: observations (moves, 4), actions (moves,) and discounted returns (moves,).

    Args:
        policy: From observations (..., 4) to the logits of the two actions (..., 2).
        seed: Where the environment's random numbers begin.
        episodes: How many to play each time; None for no end.
        greedy: Whether to take the more probable action always.
    """

    def __init__(self, policy: nn.Module, seed: int, episodes: int | None = None, greedy: bool = False) -> None:
        self.policy, self.seed, self.episodes, self.greedy = policy, seed, episodes, greedy

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        environment = gymnasium.make("CartPole-v1")
        environment.reset(seed=self.seed)
        for _ in itertools.count() if self.episodes is None else range(self.episodes):
            yield self.episode(environment)

    @torch.no_grad()
    def episode(self, environment: gymnasium.Env) -> tuple[Tensor, Tensor, Tensor]:
        observation, _ = environment.reset()
        observations, actions, ended = [], [], False
        while not ended:
            observations.append(make_var(observation))
            logits = self.policy(observations[-1])
            action = logits.argmax() if self.greedy else torch.distributions.Categorical(logits=logits).sample()
            actions.append(action)
            observation, _, fallen, too_long, _ = environment.step(action.item())
            ended = fallen or too_long
        # The reward is 1 a move, so the discounted return of a move is a geometric series of the moves that are left.
        left = torch.arange(len(actions), 0, -1, device=observations[0].device)
        return torch.stack(observations), torch.stack(actions), (1 - DISCOUNT**left) / (1 - DISCOUNT)


def make_policy() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))


def main(steps: int = 60) -> Trainer:
    seed_everything(0)
    policy = make_policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)

    def train_fn(policy, observations, actions, returns):
        advantages = (returns - returns.mean()) / (returns.std() + 1e-6)
        log_probabilities = policy(observations).log_softmax(dim=1)
        chosen = log_probabilities.gather(1, actions.unsqueeze(1)).squeeze(1)
        loss = -(advantages * chosen).mean()
        optimize(loss, optimizer)
        return {"reward": (len(actions), 1)}

    def eval_fn(policy, observations, actions, returns):
        return {"reward": (len(actions), 1)}

    trainer = Trainer(
        policy,
        optimizer,
        train_fn,
        Play(policy, seed=0),
        eval_fn,
        Play(policy, seed=1, episodes=10, greedy=True),
        accumulate=EPISODES,
    )
    before = trainer.evaluate()["reward"]
    trainer.fit(steps=steps, eval_every=min(steps, 10))
    after = trainer.evaluate()["reward"]
    print(f"The pole stayed up for {before:.1f} moves before the training, and stays up for {after:.1f} now.")
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Balances the pole of CartPole by a policy gradient.")
    parser.add_argument("--steps", type=int, default=60, help="steps, of four episodes each (default: 60)")
    main(parser.parse_args().steps)
