"""Runs spike trains through SANA-FE's Loihi model: the one process that imports SANA-FE.

    python -P loihi_worker.py REQUEST.npz RESULT.json

SANA-FE is under the GPL, this project under the MIT licence, so the two meet in files only: this
one imports nothing of the project (and so no torch), and nothing of the project imports it. What
the files hold is written down in `policies.energy.loihi_process`.

Source: Boyle et al. 2025 (SANA-FE), https://github.com/SLAM-Lab/SANA-FE.
"""

import contextlib
import importlib
import io
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROTOCOL = 1


def main(request: str, result: str) -> None:
    """Simulate what the file `request` describes and write what came out to `result`."""
    with np.load(request, allow_pickle=False) as file:
        header = json.loads(str(file["header"]))
        arrays = {name: file[name] for name in file.files if name != "header"}
    if header["protocol"] != PROTOCOL:
        raise SystemExit(f"request of protocol {header['protocol']}, expected {PROTOCOL}")
    sanafe = importlib.import_module("sanafe")
    architecture = sanafe.load_loihi()
    # SANA-FE reports its progress on standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        chip = sanafe.SpikingChip(architecture)
        chip.load(_network(sanafe, architecture, header, arrays))
        steps = header["spike_steps"] + len(header["layers"])
        runs = [_decide(chip, steps, header["layers"]) for _ in arrays["spikes"]]
    Path(result).write_text(json.dumps({"version": version("sanafe"), "decisions": runs}))


def _network(
    sanafe: Any, architecture: Any, header: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> Any:
    """The network, mapped to cores, with the spike trains of all decisions in its inputs."""
    network, cores = sanafe.Network(), architecture.cores()
    steps = header["spike_steps"] + len(header["layers"])
    trains = np.zeros((len(arrays["spikes"]), steps, arrays["spikes"].shape[2]), dtype=np.int64)
    trains[:, : header["spike_steps"]] = arrays["spikes"]
    senders = []
    for core, start, stop in header["inputs"]:
        group = network.create_neuron_group(f"input.{start}", stop - start)
        group.map_to_core(cores[core])
        _set_trains(group, trains[:, :, start:stop])
        senders.append((start, stop, group))
    for index, layer in enumerate(header["layers"]):
        # A layer is one step behind the one before it: its bias starts with its first input.
        ones = np.zeros((len(trains), steps, 1), dtype=np.int64)
        ones[:, index : index + header["spike_steps"]] = 1
        weight, bias = arrays[f"weight{index}"], arrays[f"bias{index}"]
        receivers = []
        for core, start, stop in layer["cores"]:
            group = network.create_neuron_group(
                f"layer.{index}.{start}",
                stop - start,
                model_attributes=layer["neuron"],
                soma_hw_name="loihi_lif",
                log_spikes=True,
            )
            group.map_to_core(cores[core])
            for first, last, sender in senders:
                _connect(sender, group, weight[start:stop, first:last])
            if bias[start:stop].any():
                source = network.create_neuron_group(f"bias.{index}.{start}", 1)
                source.map_to_core(cores[core])
                _set_trains(source, ones)
                _connect(source, group, bias[start:stop, None])
            receivers.append((start, stop, group))
        senders = receivers
    return network


def _set_trains(group: Any, trains: NDArray[Any]) -> None:
    """Spikes [D, steps, N] for the N neurons of a group that is alone in sending on its core."""
    for unit, neuron in enumerate(group):
        spikes = trains[:, :, unit].ravel().tolist()
        neuron.set_attributes(
            soma_hw_name=f"loihi_inputs[{unit}]", model_attributes={"spikes": spikes}
        )


def _connect(sender: Any, receiver: Any, weight: NDArray[Any]) -> None:
    """A synapse for every weight [receivers, senders] but 0."""
    post, pre = np.nonzero(weight)
    if len(post):
        pairs = list(zip(pre.tolist(), post.tolist(), strict=True))
        sender.connect_neurons_sparse(receiver, {"w": weight[post, pre].tolist()}, pairs)


def _decide(chip: Any, steps: int, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """One decision from state 0; its spikes as step * neurons + neuron, by layer."""
    run = chip.sim(steps, spike_trace=True, processing_threads=1)
    chip.reset()
    sizes = [layer["cores"][-1][2] for layer in layers]
    spikes: list[list[int]] = [[] for _ in layers]
    for step, fired in enumerate(run["spike_trace"]):
        for neuron in fired:
            _, index, start = neuron.group_name.split(".")
            layer = int(index)
            spikes[layer].append(step * sizes[layer] + int(start) + neuron.neuron_offset)
    return {
        "energy": run["energy"],
        "seconds": run["sim_time"],
        "synaptic_events": run["spikes"],
        "spikes": spikes,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
