"""Muon for the matrices inside the blocks, Adam for everything else.

Muon replaces a matrix's momentum by the nearest orthogonal one (Newton-Schulz steps), so its learning rate is the
size of a step relative to the matrix; Adam serves tables, norms, biases and small vectors.
"""
import torch


@torch.no_grad()
def orthogonal(g):
    """Newton-Schulz on a stack [n, rows, cols], in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.float().norm(dim=(1, 2), keepdim=True).to(x.dtype) + 1e-7)
    for _ in range(5):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * s @ s) @ x
    return x.transpose(1, 2) if tall else x


class Optimizer:
    def __init__(self, named, lr=0.02, decay=0.01, adam=2e-3, momentum=0.95):
        self.lr, self.decay, self.adam, self.momentum, self.count = lr, decay, adam, momentum, 0
        self.stacks, self.rest = {}, []
        for name, p in named:
            inside = ".blocks." in name or ".layers." in name or name.startswith("mlp1.")
            if p.ndim == 2 and inside:
                split = 3 if name.endswith("qkv.weight") else 1     # q, k and v are matrices of their own
                self.stacks.setdefault((split, p.shape), []).append(p)
            else:
                rate = 3.0 if "embeddings" in name or "pos_embed" in name else 0.5 if "embedder" in name or "A_log" in name else 1.0
                self.rest.append((p, rate))
        self.velocity = {k: torch.zeros(len(v), *k[1], device=v[0].device) for k, v in self.stacks.items()}
        self.first = [torch.zeros_like(p) for p, _ in self.rest]
        self.second = [torch.zeros_like(p) for p, _ in self.rest]

    @torch.no_grad()
    def step(self, scale):
        self.count += 1
        for key, params in self.stacks.items():
            split, (rows, cols) = key
            g = torch.stack([p.grad for p in params])
            v = self.velocity[key].lerp_(g, 1 - self.momentum)
            g = g.lerp(v, self.momentum).view(-1, rows // split, cols)
            step = orthogonal(g).view(len(params), rows, cols)
            size = self.lr * scale * max(1.0, rows / split / cols) ** 0.5
            torch._foreach_mul_(params, 1 - self.lr * scale * self.decay)
            torch._foreach_add_(params, list(step.float().unbind(0)), alpha=-size)
        grads, params = [p.grad for p, _ in self.rest], [p for p, _ in self.rest]
        torch._foreach_lerp_(self.first, grads, 0.1)
        torch._foreach_mul_(self.second, 0.98)
        torch._foreach_addcmul_(self.second, grads, grads, 0.02)
        one, two = 1 - 0.9 ** self.count, 1 - 0.98 ** self.count
        below = torch._foreach_sqrt(torch._foreach_div(self.second, two))
        torch._foreach_add_(below, 1e-8)
        move = torch._foreach_div(self.first, below)
        torch._foreach_mul_(move, [-self.adam * scale * r / one for _, r in self.rest])
        torch._foreach_add_(params, move)

    def state(self):
        return {"count": self.count, "velocity": [v for v in self.velocity.values()], "first": self.first, "second": self.second}

    def load(self, state):
        self.count = state["count"]
        for mine, theirs in zip([*self.velocity.values(), *self.first, *self.second],
                                [*state["velocity"], *state["first"], *state["second"]], strict=True):
            mine.copy_(theirs)
