"""Limits of GPUs of each architecture, and the number of resident blocks of a kernel on a multiprocessor.

Figures: CUDA C++ Programming Guide, "Compute Capabilities", technical specifications per compute capability; numbers of
multiprocessors from the vendor's data sheet of the device that stands for its architecture.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
REGISTERS = 65536  # per multiprocessor, and at most per block
MAX_REGISTERS = 255  # per thread
_REGISTER_UNIT = 256  # allocation granularity of a warp's registers
_PARTITIONS = 4  # of a multiprocessor, each with a quarter of the registers


@dataclass(frozen=True)
class Architecture:
    """A compute capability and a device of it.

    Attributes
    ----------
    name, device : str
        ``"sm_80"``, and the device whose number of multiprocessors is used.
    capability : tuple of int
        Major and minor.
    multiprocessors : int
        Number of multiprocessors.
    clock_mhz : int
        Maximum clock of the multiprocessors.
    threads, blocks : int
        Maximum numbers resident on a multiprocessor.
    shared : int
        Bytes of shared memory per multiprocessor.
    shared_optin : int
        Maximum bytes per block with opt-in; 48 KiB without.
    shared_reserved, shared_unit : int
        Bytes reserved by the system per block, and the allocation granularity.
    """

    name: str
    device: str
    capability: tuple[int, int]
    multiprocessors: int
    clock_mhz: int
    threads: int
    blocks: int
    shared: int
    shared_optin: int
    shared_reserved: int = 1024
    shared_unit: int = 128

    def resident_blocks(self, threads: int, shared: int, registers: int) -> int:
        """Return the number of blocks of a kernel that can be resident on one multiprocessor.

        Parameters
        ----------
        threads : int
            Threads of a block.
        shared : int
            Bytes of shared memory of a block, static and dynamic.
        registers : int
            Registers of a thread.

        Returns
        -------
        int
            0 if not even one block fits.
        """
        warps = -(-threads // WARP)
        if shared > self.shared_optin or registers > MAX_REGISTERS:
            return 0
        memory = -(-(shared + self.shared_reserved) // self.shared_unit) * self.shared_unit
        registers_per_warp = -(-registers * WARP // _REGISTER_UNIT) * _REGISTER_UNIT
        warps_by_registers = REGISTERS // _PARTITIONS // registers_per_warp * _PARTITIONS
        return min(
            self.blocks,
            self.threads // (warps * WARP),
            self.shared // memory if memory else self.blocks,
            warps_by_registers // warps,
        )


KIB = 1024
ARCHITECTURES = {
    entry.name: entry
    for entry in (
        Architecture("sm_75", "T4", (7, 5), 40, 1590, 1024, 16, 64 * KIB, 64 * KIB, 0, 256),
        Architecture("sm_80", "A100", (8, 0), 108, 1410, 2048, 32, 164 * KIB, 163 * KIB),
        Architecture("sm_86", "RTX 3090", (8, 6), 82, 1695, 1536, 16, 100 * KIB, 99 * KIB),
        Architecture("sm_89", "RTX 4090", (8, 9), 128, 2520, 1536, 24, 100 * KIB, 99 * KIB),
        Architecture("sm_90", "H100", (9, 0), 132, 1980, 2048, 32, 228 * KIB, 227 * KIB),
        Architecture("sm_100", "B200", (10, 0), 148, 1965, 2048, 32, 228 * KIB, 227 * KIB),
        Architecture("sm_120", "RTX 5090", (12, 0), 170, 2407, 1536, 24, 100 * KIB, 99 * KIB),
    )
}
