"""How a process was started, from the environment alone."""

from __future__ import annotations

import pytest

from capgpu.distributed import Launch, LaunchError, launch


def test_each_launcher_is_read():
    mpich = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
    assert launch(mpich) == Launch("mpiexec of MPICH", 2, 4, 0, 2, "PMI_SIZE")
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    open_mpi = {f"OMPI_COMM_WORLD_{name}": value for name, value in zip(names, "3412", strict=True)}
    assert launch(open_mpi) == Launch("mpiexec of Open MPI", 3, 4, 1, 2, "OMPI_COMM_WORLD_SIZE")
    slurm = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2),4"}
    assert launch({**slurm, "SLURM_STEP_NUM_TASKS": "6"}) == Launch("srun", 5, 6, 1, 4, "SLURM_STEP_NUM_TASKS")
    # srun --mpi=pmi2: the variables of MPICH without the last two
    assert launch({**slurm, "PMI_RANK": "5", "PMI_SIZE": "6"}) == Launch("mpiexec of MPICH", 5, 6, 1, 4, "PMI_SIZE")


def test_a_process_of_its_own_has_no_launcher():
    assert launch({}) is None
    assert launch({"PMI_RANK": "0", "PMI_SIZE": "1"}) is None
    assert launch({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) is None  # a batch script, without srun
    assert launch({"PMI_RANK": "x", "PMI_SIZE": "2"}) is None


def test_contradictions_are_refused():
    with pytest.raises(LaunchError, match=r"PMI_RANK: expected a number below PMI_SIZE=2, got 2\."):
        launch({"PMI_RANK": "2", "PMI_SIZE": "2"})
