"""Brings the processes of a run together: one alone, or several started by it, by torchrun or by srun."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.strategies import DDPStrategy

from pyro_sri.config import RunConfig
from pyro_sri.system.children import bound_to_this_process, end_with_parent
from pyro_sri.system.errors import UserError, one_line
from pyro_sri.system.signals import waiting
from pyro_sri.training.devices import pick_device, without_advice

BY_HAND = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")  # read by Fabric if there is no launcher
# Seconds until a message says who is awaited. A person starts machines one by one, a launcher all at once.
PATIENCE_BY_HAND, PATIENCE = 2.0, 60.0


def launch(config: RunConfig) -> Fabric:
    """Joins the processes of a run, and starts those on this machine that no launcher has started.

    While it waits for the others, Ctrl-C and SIGTERM end this process at once. Processes that are started here end
    when this one ends, for whatever reason (on Linux).

    Raises:
        UserError: If there are too few GPUs, or a launcher started other processes than the run needs.
    """
    end_with_parent()
    accelerator = pick_device(config.device).type
    if accelerator == "cuda" and config.devices > torch.cuda.device_count():
        raise UserError(f"--devices {config.devices} is more than the {torch.cuda.device_count()} GPUs of this machine")
    environment = _environment(config)
    alone = config.num_processes == 1
    strategy: str | DDPStrategy = "auto" if alone else DDPStrategy(find_unused_parameters=config.idle_parameters)
    plugins = [] if environment is None else [environment]
    try:
        with waiting_for_the_others(config), bound_to_this_process(), _none_left_behind(strategy):
            return new_fabric(
                accelerator=accelerator,
                devices=config.devices,
                num_nodes=config.nodes,
                strategy=strategy,
                plugins=plugins,
            )
    except (ValueError, RuntimeError) as error:  # a launcher's settings, an address, a port
        raise UserError(f"cannot start or join the {config.num_processes} processes: {_reason(error)}") from error


def new_fabric(**options: Any) -> Fabric:
    """Creates and launches the Fabric of one process of a run.

    Raises:
        ValueError: If a launcher's settings do not fit.
        RuntimeError: If the other processes cannot be reached.
    """
    with without_advice():
        fabric = Fabric(**options)
        fabric.launch()
    if fabric.world_size > 1:
        _expect_other_streams()
    return fabric


def _expect_other_streams() -> None:
    """Silences a warning: DistributedDataParallel needs its own stream, and autograd waits for it."""
    expect = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)  # from PyTorch 2.10 on
    if expect is not None:
        expect(False)


@contextlib.contextmanager
def waiting_for_the_others(config: RunConfig) -> Iterator[None]:
    """Says after a while that this process waits for the others of the run. Signals end the wait."""
    if config.num_processes == 1:
        yield
        return
    by_hand = config.nodes > 1 and not TorchElasticEnvironment.detect() and not _srun_tasks()
    with waiting(_awaited(config, by_hand), PATIENCE_BY_HAND if by_hand else PATIENCE):
        yield


@contextlib.contextmanager
def _none_left_behind(strategy: str | DDPStrategy) -> Iterator[None]:
    """Ends the processes that Fabric has started if this one cannot continue."""
    try:
        yield
    except BaseException:
        started = getattr(getattr(strategy, "launcher", None), "procs", [])
        for process in started:
            process.kill()
            process.wait()
        started.clear()  # otherwise Fabric, which watches them, would kill this process too
        raise


def _awaited(config: RunConfig, by_hand: bool) -> str:
    others = f"the other processes of the run ({config.num_processes} in all)"
    if not by_hand:
        return f"{others}, which start slowly or have failed: see what they print; Ctrl-C ends this one"
    here = os.environ.get("NODE_RANK")
    ranks = " or ".join(str(rank) for rank in range(config.nodes) if str(rank) != here)
    if config.nodes > 4:
        ranks = f"0 to {config.nodes - 1} but {here}"
    where = f"MASTER_ADDR={os.environ.get('MASTER_ADDR')} MASTER_PORT={os.environ.get('MASTER_PORT')}"
    return (
        f"{others}: start the same command on each other machine with {where} NODE_RANK={ranks}; Ctrl-C ends this one"
    )


def _environment(config: RunConfig) -> ClusterEnvironment | None:
    """The launcher of the run's processes. None means that Fabric finds out.

    Raises:
        UserError: If a launcher started other processes than the run needs, or is needed but missing.
    """
    if TorchElasticEnvironment.detect():
        devices, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        _check_launched(config, "torchrun", devices, total // devices)
        return None
    if tasks := _srun_tasks():
        nodes = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_NNODES") or 1)
        devices = int(os.environ.get("SLURM_NTASKS_PER_NODE") or tasks // nodes)
        _check_launched(config, "srun", devices, tasks // devices)
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(devices))  # Fabric asks for it
        return SLURMEnvironment()
    if config.nodes > 1 and not set(BY_HAND) <= os.environ.keys():
        raise UserError(
            f"--nodes {config.nodes}: start it on every machine with torchrun or srun, or set MASTER_ADDR, "
            "MASTER_PORT and NODE_RANK there"
        )
    # Without srun, a SLURM job has one process, even if it requested several tasks.
    return LightningEnvironment() if "SLURM_NTASKS" in os.environ else None


def _srun_tasks() -> int:
    """The number of processes that srun started, including this one. 0 if it started none or only this one."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS") or 0)
    interactive = SLURMEnvironment.job_name() in ("bash", "interactive")
    return 0 if interactive or tasks == 1 else tasks


def _check_launched(config: RunConfig, launcher: str, devices: int, nodes: int) -> None:
    if (config.devices, config.nodes) != (devices, nodes):
        raise UserError(
            f"--devices {config.devices} --nodes {config.nodes} do not match the processes that {launcher} started: "
            f"give --devices {devices} --nodes {nodes}"
        )


def _reason(error: Exception) -> str:
    port = os.environ.get("MASTER_PORT")
    if port is not None and not port.isdecimal():
        return f"MASTER_PORT is '{port}', not the number of a port: set it to one, or unset it"
    if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
        return f"another program has port {port}: set MASTER_PORT to a free one, or unset it"
    return one_line(error)
