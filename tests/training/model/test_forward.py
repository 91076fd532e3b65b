from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from prmbench.training.model.forward import give_logprobs, give_values

SHARDED = """
import json, os, sys, torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
from prmbench.training.model.forward import give_logprobs

dist.init_process_group("gloo")
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
give_logprobs(model, "m")
mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
ids = torch.tensor([json.loads(sys.argv[2])])
n = ids.shape[1]
where = {"input_ids": ids, "rows": torch.zeros(n - 3, dtype=torch.long), "columns": torch.arange(3, n)}
values = model(**where)["values"]
values.square().sum().backward()
norms = {name: float(p.grad.full_tensor().norm()) for name, p in model.named_parameters()}
if dist.get_rank() == 0:
    print(json.dumps({"values": values.tolist(), "norms": norms}), flush=True)
dist.barrier()
os._exit(0)  # gloo's threads now and then abort a process that is tearing down
"""


def asked(ids, start):
    n = ids.shape[1]
    return {"input_ids": ids, "rows": torch.zeros(n - start, dtype=torch.long), "columns": torch.arange(start, n)}


@pytest.mark.slow
def test_sharded_weights_give_the_same_values_and_gradients(tiny, tmp_path):
    ids = torch.randint(5, 300, (1, 20), generator=torch.Generator().manual_seed(0))
    model = AutoModelForCausalLM.from_pretrained(tiny)
    give_logprobs(model, "m")
    values = model(**asked(ids, 3))["values"]
    values.square().sum().backward()
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        [*launch, str(tiny), json.dumps(ids[0].tolist())],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["values"] == pytest.approx(values.tolist(), abs=1e-5)
    for name, parameter in model.named_parameters():
        assert found["norms"][name] == pytest.approx(float(parameter.grad.norm()), rel=1e-4), name


@pytest.mark.parametrize("start", [1, 5])
def test_logprobs_are_those_of_the_plain_forward(tiny, start):
    ids = torch.randint(5, 300, (1, 12), generator=torch.Generator().manual_seed(0))
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    with torch.no_grad():
        wanted = model(ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[start - 1 :, 0]
        give_logprobs(model, "m")
        torch.testing.assert_close(model(**asked(ids, start))["values"], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("read_state", "offset"), [("after", 0), ("before", -1)])
def test_values_are_a_linear_map_of_states(tiny, read_state, offset):
    ids = torch.randint(5, 300, (1, 12), generator=torch.Generator().manual_seed(0))
    model = AutoModelForCausalLM.from_pretrained(tiny).eval()
    with torch.no_grad():
        states = model.model(ids).last_hidden_state[0]
        give_values(model, read_state, seed=1)
        again = AutoModelForCausalLM.from_pretrained(tiny).eval()
        give_values(again, read_state, seed=1)
        assert torch.equal(model.value_head.weight, again.value_head.weight)  # the seed decides
        wanted = (states @ model.value_head.weight[0])[4 + offset : 12 + offset]
        torch.testing.assert_close(model(**asked(ids, 4))["values"], wanted)
    assert not model.lm_head.weight.requires_grad  # no part in it
