"""Reads and writes with the metadata that LLVM needs to make a loop SIMD.

Numba passes arrays as bare pointers, so LLVM must assume that a store to one array may change another. It cannot check
that at run time for a gather, because the addresses of a gather are data. Then it leaves the loop scalar. Scoped alias
metadata tells LLVM that `store` never writes to an array that `gather` reads. That is true here, because flow fields
are only read while particles move. Callers must check indices: none of these functions wraps or checks bounds.
"""

import platform
from contextlib import suppress
from typing import Any

import numba
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import types
from numba.extending import intrinsic


def _scope(builder: ir.IRBuilder) -> Any:
    domain = builder.module.add_metadata(["topo_dask"])
    return builder.module.add_metadata([builder.module.add_metadata(["flow", domain])])


def _pointer(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    index = context.cast(builder, args[1], signature.args[1], types.uint64)
    return builder.gep(array.data, [index])


def _loader(kind: str) -> Any:
    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        value = builder.load(_pointer(context, builder, signature, args))
        value.set_metadata(kind, _scope(builder))
        return value

    return codegen


@intrinsic
def gather(typingctx: Any, array: Any, index: Any) -> Any:
    """``array[index]`` of a flat array that no `store` of this function writes."""
    return array.dtype(array, index), _loader("alias.scope")


@intrinsic
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """``array[index]`` of a scratch array of the batch."""
    return array.dtype(array, index), _loader("noalias")


@intrinsic
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """``array[index] = value`` for a scratch array of the batch."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        written = builder.store(args[2], _pointer(context, builder, signature, args))
        written.set_metadata("noalias", _scope(builder))
        return context.get_dummy_value()

    return types.void(array, index, array.dtype), codegen


def _converts_halves() -> bool:
    # Whether the compiler may convert halves by instruction. If numba is set to compile for another processor, or for
    # one without such an instruction, LLVM would call a function that numba does not have, and crash.
    if numba.config.CPU_NAME or numba.config.CPU_FEATURES is not None:
        return False
    if platform.machine() in ("aarch64", "arm64"):
        return True
    with suppress(RuntimeError):  # unknown processor
        return bool(numba.config.ENABLE_AVX and get_host_cpu_features().get("f16c"))
    return False


def _extend(builder: ir.IRBuilder, half: Any) -> Any:
    # The exponent of a half counts from 2**-15, that of a single from 2**-127. So the bits of a half, shifted into
    # place, are the number times 2**-112, for subnormals too; multiplying by 2**112 is exact.
    integer, single = ir.IntType(32), ir.FloatType()
    bits = builder.zext(half, integer)
    size = builder.shl(builder.and_(bits, integer(0x7FFF)), integer(13))
    scaled = builder.bitcast(builder.fmul(builder.bitcast(size, single), single(2.0**112)), integer)
    special = builder.icmp_unsigned(">=", size, integer(0x7C00 << 13))  # infinity, NaN
    number = builder.select(special, builder.or_(size, integer(0x7F800000)), scaled)
    return builder.bitcast(builder.or_(number, builder.shl(builder.and_(bits, integer(0x8000)), integer(16))), single)


@intrinsic
def half_to_single(typingctx: Any, bits: Any) -> Any:
    """The number whose half-precision bits are the lowest 16 of an unsigned integer, exactly."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        half = context.cast(builder, args[0], signature.args[0], types.uint16)
        if not _converts_halves():
            return _extend(builder, half)
        return builder.fpext(builder.bitcast(half, ir.HalfType()), ir.FloatType())

    return types.float32(bits), codegen


@intrinsic
def size_bits(typingctx: Any, value: Any) -> Any:
    """Bits of a float without its sign, as an integer.

    The integers are in the order of the magnitudes, with infinity and NaN above all (IEEE 754). LLVM uses SIMD for the
    maximum of integers. For floats it does not, because the result depends on the order if there is a NaN.
    """
    unsigned: Any = {types.float32: types.uint32, types.float64: types.uint64}[value]

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        integer = ir.IntType(unsigned.bitwidth)
        return builder.and_(builder.bitcast(args[0], integer), ir.Constant(integer, (1 << (unsigned.bitwidth - 1)) - 1))

    return unsigned(value), codegen
