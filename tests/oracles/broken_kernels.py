"""Mutations of every kernel: a missing barrier, an index off by one, a wrong mask.

Each names the check that must detect it. The table omits changes that leave a kernel correct, such as removing a block
barrier where a warp reads only what it has written itself.
"""

from __future__ import annotations

from simulators.emulator.mutations import ADDRESS, FAULT, RESULTS, THREAD, Mutation

PASSES = ("lstm_forward", "lstm_backward", "rnn_forward", "rnn_backward")

_SUMS = "__syncthreads();  // else partial sums are read that other warps have not written yet\n"
_TILE = "__syncthreads();  // else the next product overwrites sums that are still read"
_LANES = "sums[i][c] += __shfl_xor_sync(ALL_LANES, sums[i][c], distance);"
_STEPS_EDGE = "for (int chunk = warp; chunk < chunks(); chunk += WARPS) {"
_EDGE = "for (int chunk = warp; chunk < chunks(); chunk += Batch<TILE>::CHUNKS * WARPS) {"
_WAIT = "wait_at_group_barrier(counter, arrival);  // else an earlier launch's numbers pass for "
_ANNOUNCED = (
    "store_relaxed(reinterpret_cast<real_bits*>(address), to_acc(value) != to_acc(value) ? QUIET_NAN : to_bits(value));"
)


def _of_the_step_tier(kernel: str) -> list[Mutation]:
    return [
        Mutation(kernel, "sums read before all warps have written theirs", _SUMS, "\n", RESULTS, 2),
        Mutation(kernel, "copies read that nobody waits for", "wait_for_copies<STAGES - 1>();", "", RESULTS),
        Mutation(
            kernel,
            "copies read that other lanes wait for",
            "__syncwarp();  // else a chunk is read that other lanes' copies have not completed",
            "",
            THREAD,
        ),
        Mutation(kernel, "the last terms left out", _STEPS_EDGE, _STEPS_EDGE.replace("chunks()", "K / DEPTH"), RESULTS),
    ]


def _of_resident_weights(kernel: str) -> list[Mutation]:
    return [
        Mutation(kernel, "sums read before all warps have written theirs", _SUMS, "\n", RESULTS, 2),
        Mutation(kernel, "weights read that nobody waits for", "wait_for_copies<0>();", "", RESULTS),
        Mutation(
            kernel,
            "numbers read that other lanes fetch",
            "__syncwarp();  // else numbers are read that other lanes have not stored yet",
            "",
            THREAD,
        ),
        Mutation(kernel, "the last terms left out", _EDGE, _EDGE.replace("chunks()", "K / DEPTH"), RESULTS),
    ]


def _of_a_pass(kernel: str) -> list[Mutation]:
    state = "h" if kernel.endswith("forward") else "da"
    # four gates of float32 are packs of 16 bytes, whatever their number
    singly = "float16" if kernel == "lstm_backward" else "float32"
    return [
        *_of_resident_weights(kernel),
        Mutation(kernel, "sums read before all warps have written theirs", _SUMS, "\n", THREAD, 2),
        Mutation(kernel, "sums overwritten before they are read", _TILE, ";", THREAD, 2),
        Mutation(
            kernel,
            "sums put where other lanes still read",
            "__syncwarp();  // else partial sums overwrite factors that other lanes still read",
            "",
            THREAD,
        ),
        Mutation(kernel, "packs that are not waited for", "if (complete) return;", "return;", RESULTS),
        Mutation(
            kernel,
            "numbers that are not waited for",
            "rows.published ? wait_for_number(from) : *from",
            "*from",
            RESULTS,
            dtype=singly,
        ),
        Mutation(
            kernel,
            "numbers that are not waited for",
            "rows.published ? wait_for_number(from) : *from",
            "*from",
            THREAD,
            dtype=singly,
        ),
        Mutation(kernel, "numbers stored as if nobody waited", _ANNOUNCED, "*address = value;", THREAD),
        Mutation(kernel, "old numbers left in place", "= FILLER;", "; FILLER;", RESULTS),
        Mutation(kernel, "no waiting until all have filled", f"{_WAIT}{state}\n", ";\n", RESULTS),
        Mutation(kernel, "no waiting until all have filled", f"{_WAIT}{state}\n", ";\n", THREAD),
        Mutation(
            kernel,
            "a NaN that looks as if it were not there",
            "to_acc(value) != to_acc(value) ? QUIET_NAN : to_bits(value)",
            "to_bits(value)",
            FAULT,
        ),
        Mutation(
            kernel,
            "arrival before the block has filled",
            "__syncthreads();  // else the block arrives before all its threads have written the filler",
            "",
            THREAD,
        ),
        Mutation(
            kernel,
            "going on before the others have arrived",
            "__syncthreads();  // else threads read results before thread 0 has seen every block arrive",
            "",
            THREAD,
        ),
    ]


_BARRIER = [
    Mutation(
        "lstm_forward",
        "an arrival that releases nothing",
        "__threadfence();  // else the arrival may become visible before what other threads of the block have written\n"
        "        before = fetch_add_release(",
        "before = atomicAdd(",
        THREAD,
    ),
    Mutation(
        "lstm_forward",
        "a wait that acquires nothing",
        "while (((load_acquire(counter) ^ before) & 0x80000000u) == 0) SPIN();\n        __threadfence();",
        "while (((atomicAdd(counter, 0u) ^ before) & 0x80000000u) == 0) SPIN();",
        THREAD,
    ),
    Mutation("lstm_forward", "a block too many waited for", "(unsigned)(blocks - 1)", "(unsigned)blocks", FAULT),
    Mutation("lstm_forward", "lanes beyond the mask", _LANES, _LANES.replace("ALL_LANES", "0x7fffffffu"), FAULT),
    Mutation(
        "lstm_forward",
        "weights that another warp has loaded",
        "weights() + (chunk + stage * WARPS) * RIGHT_CHUNK",
        "weights() + ((chunk + stage * WARPS) ^ 1) * RIGHT_CHUNK",
        RESULTS,
    ),
    Mutation(
        "rnn_backward",
        "a row too many of a group",
        "(count - group + groups - 1) / groups",
        "(count - group + groups) / groups",
        ADDRESS,
    ),
    Mutation(
        "rnn_forward",
        "16 bytes past the row's end",
        "row(round) < rows.count && depth(round, chunk) < K",
        "row(round) < rows.count && depth(round, chunk) <= K",
        ADDRESS,
    ),
    Mutation(
        "rnn_forward_step",
        "16 bytes past the row's end",
        "const bool in_bounds = row < rows.count && depth + offset < K;",
        "const bool in_bounds = row < rows.count && depth + offset <= K;",
        ADDRESS,
    ),
    Mutation(
        "lstm_backward",
        "a gradient of c that no later step has sent",
        "dc = row >= left.count ? acc(0) : RESIDENT",
        "dc = row >= height ? acc(0) : RESIDENT",
        RESULTS,
    ),
    Mutation(
        "lstm_backward_step",
        "weights of the wrong column",
        "unit + column < H ? Wh + (long long)(unit + column) * K",
        "unit + column < H ? Wh + (long long)(unit + (column ^ 1)) * K",
        RESULTS,
    ),
    Mutation(
        "lstm_forward_tensor",
        "parts of the left factor in the wrong order",
        "LEFT_STRIDE + PACK * (part + lane() / 16)",
        "LEFT_STRIDE + PACK * (part + 1 - lane() / 16)",
        RESULTS,
        2,
    ),
    Mutation(
        "rnn_forward_tensor",
        "rows of the left factor in the wrong order",
        "(16 * i + lane() % 16) * LEFT_STRIDE",
        "(16 * i + lane() % 8 * 2 + lane() / 8 % 2) * LEFT_STRIDE",
        RESULTS,
        2,
    ),
    Mutation(
        "lstm_forward_tensor",
        "columns stored where other instructions computed them",
        "return 8 * SPREAD * (j / SPREAD) + SPREAD * n + j % SPREAD;",
        "return 8 * j + n / SPREAD * SPREAD;",
        RESULTS,
    ),
    Mutation(
        "lstm_backward_tensor",
        "columns of the transposed weights in the wrong lanes",
        "right_offset<COLUMNS, true>(8 * block + lane() % 8, PACK * part)",
        "right_offset<COLUMNS, true>(8 * block + (lane() % 8 ^ 1), PACK * part)",
        RESULTS,
    ),
    Mutation(
        "lstm_forward_tensor",
        "halves of weights that are not transposed",
        "load_matrices<!TRANSPOSED>",
        "load_matrices<false>",
        RESULTS,
        dtype="float16",
    ),
    Mutation(
        "rnn_backward_tensor",
        "halves of transposed weights, transposed once more",
        "load_matrices<!TRANSPOSED>",
        "load_matrices<true>",
        RESULTS,
        dtype="float16",
    ),
    *(
        Mutation(
            "lstm_forward_tensor",
            f"lines of {dtype} weights permuted onto each other",
            "(line / LINES % BLOCKS)",
            "(line / LINES % (BLOCKS + 1))",
            RESULTS,
            dtype=dtype,
        )
        for dtype in ("float32", "float16")
    ),
    Mutation("lstm_forward_tensor", "weights that are not rounded", "round_weights();\n#endif", "#endif", RESULTS),
    Mutation(
        "lstm_forward_tensor",
        "weights rounded before other lanes have copied them",
        "__syncwarp();  // else weights are rounded that other lanes have not copied yet",
        "",
        THREAD,
    ),
    Mutation(
        "lstm_forward",
        "partial sums permuted onto each other",
        "row / 2 % 2 * 10 + row / 4 % 2 * 4",
        "row / 2 % 2 * 10 + row / 4 % 2 * 20",
        RESULTS,
    ),
    Mutation(
        "lstm_backward",
        "partial sums stored where they are not read",
        "partial_offset<COLUMNS>(to_row, column() + COLUMN_LANES * c)] =",
        "partial_offset<COLUMNS>(to_row, column() + COLUMN_LANES * (c ^ 1))] =",
        RESULTS,
    ),
    Mutation(
        "lstm_forward_step",
        "numbers past the edge of a chunk left as they are",
        "copy_16_bytes(to + row * LEFT_STRIDE + offset, from, in_bounds);",
        "if (in_bounds) copy_16_bytes(to + row * LEFT_STRIDE + offset, from, in_bounds);",
        RESULTS,
    ),
    Mutation(
        "lstm_forward", "a column of the weights too many", "owned_unit < H ? Wh", "owned_unit <= H ? Wh", ADDRESS
    ),
    Mutation(
        "lstm_forward",
        "a depth of the weights too many",
        "depth < K && owned_unit",
        "depth <= K && owned_unit",
        ADDRESS,
    ),
    Mutation("lstm_forward", "a unit too many", "in_range(unit < H)", "in_range(unit <= H)", THREAD),
    Mutation(
        "lstm_forward", "a row too many", "row >= left.count || !in_range", "row > left.count || !in_range", ADDRESS, 2
    ),
    Mutation("lstm_backward", "a row too many", "row >= height || !in_range", "row > height || !in_range", ADDRESS, 2),
    Mutation(
        "lstm_backward_step",
        "a buffer overwritten before it is read",
        "__syncwarp();  // else copies overwrite a chunk that other lanes still read",
        "",
        THREAD,
    ),
    Mutation(
        "lstm_backward",
        "buffers overwritten before they are read",
        "__syncwarp();  // else buffers are overwritten that other lanes still read",
        "",
        THREAD,
    ),
    Mutation(
        "lstm_forward_tensor",
        "numbers past the edge of a chunk that are not zeros",
        "packs[round] = {{0, 0, 0, 0}};",
        "packs[round] = {{0x7fc00000u, 0x7fc00000u, 0x7fc00000u, 0x7fc00000u}};",
        RESULTS,
    ),
    Mutation(
        "lstm_backward",
        "packs taken from the rows of another chunk",
        "(chunk + stage(round) * WARPS) * DEPTH + offset(round)",
        "(chunk + stage(round)) * DEPTH + offset(round)",
        RESULTS,
    ),
    Mutation(
        "lstm_forward_split",
        "the low halves of the left numbers left out",
        "multiply_matrices(sums[i][j], low[i], first.high, second.high);",
        "",
        RESULTS,
    ),
    Mutation(
        "rnn_backward_split",
        "the low halves of the weights left out",
        "multiply_matrices(sums[i][j], high[i], first.low, second.low);",
        "",
        RESULTS,
    ),
    *(
        Mutation(
            f"{kernel}_{products}",
            "a NaN that rounding makes a number",
            "packs[round].words[k] = bounded_tf32(packs[round].words[k]);",
            ";",
            RESULTS,
        )
        for kernel in ("lstm_forward", "rnn_forward")
        for products in ("tensor", "split")
    ),
    Mutation(
        "rnn_forward", "a row too many", "row >= left.count || !in_range", "row > left.count || !in_range", ADDRESS, 2
    ),
    Mutation("rnn_backward", "a row too many", "row >= height || !in_range", "row > height || !in_range", ADDRESS, 2),
    Mutation("rnn_backward", "a depth too many", "rows.count && depth < K) {", "rows.count && depth <= K) {", ADDRESS),
]

_KEPT = "if (Cell::HAS_STATE && RESIDENT) *own_c = c;"
_DIRECT = "Cell::STATE_IS_H ? dh + dc : dh"

#: What the GRU alone has of the kernels of all cells: h beside the product, a recurrent part, three gates.
_GRU = [
    *(
        Mutation(kernel, "h of two steps before", _KEPT, _KEPT.replace("RESIDENT)", "RESIDENT && t == first)"), RESULTS)
        for kernel in ("gru_forward", "gru_forward_split")
    ),
    *(
        Mutation(kernel, "a gradient of h0 without what passes the product by", _DIRECT, "dh", RESULTS)
        for kernel in ("gru_backward", "gru_backward_tensor")
    ),
    *(
        Mutation(kernel, "the recurrent part's gradient for the inputs", "? GRADIENTS - 1 : k", "? k : k", RESULTS)
        for kernel in ("gru_backward_step", "gru_backward_split")
    ),
    Mutation(
        "gru_forward_step",
        "a recurrent part without its bias",
        "k == Cell::RECURRENT ? sum + biases[BIASES - 1] : sum",
        "k == Cell::RECURRENT ? sum : sum",
        RESULTS,
    ),
    Mutation("gru_forward_step", "the bias of the last gate twice", "BIASES - 1]", "BIASES - 2]", RESULTS),
    Mutation("gru_backward", "sums read before all warps have written theirs", _SUMS, "\n", THREAD, 2),
    Mutation(
        "gru_forward_tensor", "matrices past a chunk", "% 4 == 0 ? 4 : 2", "< 4 ? 2 : 4", ADDRESS, dtype="float16"
    ),
    Mutation(
        "gru_forward",
        "partial sums permuted onto each other",
        "COLUMNS == 48   ? row / 2 % 2 * 10",
        "COLUMNS == 48   ? row % 2 * 18",
        RESULTS,
    ),
    Mutation("decode_cell", "a reset gate that resets nothing", "+ r * q);", "+ q);", RESULTS),
]

_SCORES = "__syncthreads();  // else warps read scores that other warps have not written yet"
_WEIGHTS = "__syncthreads();  // else cells are summed with weights that other threads have not written yet"
_STATES = "__syncthreads();  // else scores are computed of states that other threads have not written yet"
_DWEIGHTS = "__syncthreads();  // else warps read gradients of weights that other warps have not written yet"
_SUMMED = "__syncthreads();  // else gradients of weights are overwritten that other warps still sum"
_DSCORES = "__syncthreads();  // else cells are summed with gradients of scores that other threads have not written yet"

_ATTENTION = [
    Mutation("attend", "scores read before they are written", _SCORES, "", RESULTS),
    Mutation("attend", "scores read before they are written", _SCORES, "", THREAD),
    Mutation("attend", "weights read before they are written", _WEIGHTS, "", THREAD),
    Mutation(
        "attend",
        "a cell too many",
        "l < L; l += THREADS / WARP) {\n        const acc score",
        "l <= L; l += THREADS / WARP) {\n        const acc score",
        ADDRESS,
    ),
    Mutation("attention_lstm_forward", "states read before they are written", _STATES, "", RESULTS),
    Mutation("attention_lstm_forward", "states read before they are written", _STATES, "", THREAD),
    Mutation("attention_lstm_forward", "a row behind the last step", "if (r < active) own[j] =", "own[j] =", ADDRESS),
    Mutation(
        "attention_lstm_forward",
        "a cell state of another caption",
        "(m - batch_sizes[t - 2])",
        "(m - batch_sizes[t - 1])",
        RESULTS,
    ),
    Mutation("attention_lstm_backward", "gradients read before they are written", _DWEIGHTS, "", RESULTS),
    Mutation("attention_lstm_backward", "gradients read before they are written", _DWEIGHTS, "", THREAD),
    Mutation("attention_lstm_backward", "gradients overwritten before they are read", _SUMMED, "", THREAD),
    Mutation("attention_lstm_backward", "scores' gradients read before they are written", _DSCORES, "", THREAD),
    Mutation(
        "attention_lstm_backward",
        "a gradient that no later step has sent",
        "if (r < after) {\n            dh",
        "if (true) {\n            dh",
        RESULTS,
    ),
    Mutation("attention_gradient", "a cell too many", "if (k < count) to[", "if (k <= count) to[", ADDRESS),
    Mutation("attention_gradient", "steps behind a caption's end", "t < T && r < batch_sizes[t]", "t < T", RESULTS),
]

_FIRST = "__syncthreads();  // else a warp adds sums that other warps have not written yet"
_ADDED = "__syncthreads();  // else partial sums are added that other warps have not written yet"
_ONLINE = "__syncthreads();  // else a warp merges maxima and sums that other warps have not written yet"
_BEST = "__syncthreads();  // else the first warp reads candidates that other warps have not written yet"
_GATHERED = "j < width; j += WARP) target[j] = source"
_SCATTERED = "j < width; j += WARP) target[j] = is_source"
_ADDITION = "j < width; j += WARP) target[j] = to_real"
_ALIGNED = "if (aligned16(rows, width) && aligned16(out, width))"
_ALIGNED_BIAS = "if (aligned16(bias, 0) && aligned16(out, width))"
_HALF_MASK = "other = __shfl_xor_sync(0xffffu"
_TOPS = "(all_scores, maxima)"
_WRITTEN = "__syncthreads();  // else the thread that holds the true class's number overwrites its gradient"
_SHARE = "i < count; i += THREADS) single"

_OTHERS = [
    Mutation("softmax_warps", "a row too many", "if (m >= M) return;", "if (m > M) return;", ADDRESS),
    Mutation(
        "softmax_warps",
        "a score too many",
        "j < V; j += threads) accumulate",
        "j <= V; j += threads) accumulate",
        ADDRESS,
    ),
    Mutation(
        "softmax_warps",
        "a gradient too many",
        "j < V; j += threads) row[j] =",
        "j <= V; j += threads) row[j] =",
        THREAD,
        2,
    ),
    Mutation("softmax_warps", "lanes beyond the mask", "other = __shfl_xor_sync(ALL_LANES", _HALF_MASK, FAULT),
    Mutation("softmax_blocks", "no barrier", _ONLINE, "", RESULTS),
    Mutation("softmax_blocks", "no barrier", _ONLINE, "", THREAD),
    Mutation("softmax_blocks", "a warp too many", "lane < warps ? sums", "lane <= warps ? sums", RESULTS),
    Mutation("softmax_blocks", "a divergent barrier", _ONLINE, "if (warp) __syncthreads();", FAULT),
    Mutation(
        "softmax_blocks", "parts of the loss where maxima are still read", "(part, parts)", "(part, maxima)", THREAD
    ),
    Mutation("softmax_registers", "no barrier", _ONLINE, "", RESULTS),
    Mutation("softmax_registers", "no barrier", _ONLINE, "", THREAD),
    Mutation("softmax_registers", "a true class written over", _WRITTEN, "", RESULTS),
    Mutation("softmax_registers", "a true class written over", _WRITTEN, "", THREAD),
    Mutation("softmax_registers", "a pack too many", "if (k < packs) loaded", "if (k <= packs) loaded", ADDRESS),
    Mutation("softmax_registers", "a number too many", "column < V ? with_bias", "column <= V ? with_bias", ADDRESS),
    Mutation("softmax_registers", "a number left out", "single = __expf(single - local.max)", "single = 0", RESULTS),
    Mutation("softmax_registers", "packs at odd places", "aligned16(bias + front, 0)", "true", FAULT),
    Mutation("softmax_registers", "parts of the loss where maxima are read", "(all_scores, parts)", _TOPS, THREAD),
    *(
        Mutation(kernel, "the first row's weight for all", "acc(1) : weights[m]", "acc(1) : weights[0]", RESULTS)
        for kernel in ("softmax_warps", "softmax_registers")
    ),
    Mutation(
        "softmax_blocks", "a loss without its weight", "losses[m] = weight * loss;", "losses[m] = loss;", RESULTS, 2
    ),
    Mutation("softmax_warps", "one lane's part of the loss for all", "warp_sum(part), target", "part, target", RESULTS),
    Mutation("sum_losses", "no barrier", _FIRST, "", RESULTS),
    Mutation("sum_losses", "no barrier", _FIRST, "", THREAD),
    Mutation("sum_losses", "a row too many", "m < M; m += blockDim.x", "m <= M; m += blockDim.x", ADDRESS),
    Mutation("dropout", "an element too many", "i < count; ++i) out", "i <= count; ++i) out", ADDRESS),
    Mutation("dropout", "a pack too many", "start + PACK <= count", "start <= count", ADDRESS),
    Mutation("dropout", "packs at odd places", " && aligned16(in, 0) && aligned16(out, 0)", "", FAULT),
    Mutation("dropout", "one mask for all of a pack", "(unsigned)start + p)", "(unsigned)start)", RESULTS),
    Mutation("dropout", "the array's row for the mask's", "(unsigned)rows[row] * width", "row * width", RESULTS),
    Mutation("dropout", "one round of the hash", "hash32(hash32(i ^ first) ^ second)", "hash32(i ^ first)", RESULTS),
    Mutation("gather_rows", "a row too many", "if (m >= M) return;", "if (m > M) return;", ADDRESS, 3),
    Mutation("scatter_rows", "a row too many", "if (k >= count) return;", "if (k > count) return;", ADDRESS),
    Mutation("scatter_rows", "a number too many", _SCATTERED, _SCATTERED.replace("<", "<="), THREAD),
    Mutation("scatter_rows", "packs at odd places", _ALIGNED, "if (true)", FAULT, 2),
    Mutation("scatter_rows", "a row of another index", "m < M && index[m] == k", "m < M", RESULTS),
    Mutation("scatter_rows", "a row behind the last", "m < M && index[m] == k", "index[m] == k", ADDRESS),
    Mutation("add_rows", "a row too many", "if (m >= M) return;", "if (m > M) return;", ADDRESS, 3),
    Mutation("add_rows", "a number too many", _ADDITION, _ADDITION.replace("<", "<="), RESULTS),
    Mutation("add_rows", "packs at odd places", _ALIGNED, "if (true)", FAULT, 2),
    Mutation("add_rows", "packs that are not added", "to_acc(before.at[p]) + ", "", RESULTS),
    Mutation("add_rows", "numbers that are not added", "to_acc(target[j]) + ", "", RESULTS),
    Mutation("add_bias", "a row too many", "if (m >= M) return;", "if (m > M) return;", ADDRESS, 3),
    Mutation("add_bias", "packs at odd places", _ALIGNED_BIAS, "if (true)", FAULT),
    Mutation("add_bias", "packs that are not added", "to_acc(sums.at[p]) + ", "", RESULTS),
    Mutation("gather_rows", "a number too many", _GATHERED, _GATHERED.replace("<", "<="), THREAD),
    Mutation(
        "gather_rows",
        "packs at odd places",
        "if (aligned16(table, width) && aligned16(out, width))",
        "if (true)",
        FAULT,
    ),
    Mutation("segment_sums", "no barrier", _ADDED, "", RESULTS),
    Mutation("segment_sums", "no barrier", _ADDED, "", THREAD),
    Mutation("segment_sums", "a warp too many", "w < WARPS; ++w", "w <= WARPS; ++w", ADDRESS),
    Mutation("segment_sums", "a row too few", "index, order, M, k + 1)", "index, order, M - 1, k + 1)", RESULTS),
    Mutation("column_sums", "no barrier", _ADDED, "", RESULTS),
    Mutation("column_sums", "no barrier", _ADDED, "", THREAD),
    Mutation("column_sums", "a row too many", "i < last; i += WARPS", "i <= last; i += WARPS", ADDRESS),
    Mutation("column_sums", "rows with gaps as if they had none", ": i) * stride;", ": i) * width;", RESULTS),
    Mutation("adam", "an element too many", _SHARE, _SHARE.replace("<", "<="), ADDRESS),
    Mutation("adam", "a pack too many", "count / PACK : 0", "count / PACK + 1 : 0", ADDRESS),
    Mutation(
        "adam",
        "blocks that overlap",
        "(blockIdx.x - tensor.first_block) * CHUNK;",
        "(blockIdx.x - tensor.first_block) * (CHUNK - 1);",
        THREAD,
    ),
    Mutation("momentum", "an element too many", _SHARE, _SHARE.replace("<", "<="), ADDRESS),
    Mutation("square_sums", "an element too many", _SHARE, _SHARE.replace("<", "<="), ADDRESS),
    Mutation("square_sums", "no barrier", _FIRST, "", RESULTS),
    Mutation("square_sums", "no barrier", _FIRST, "", THREAD),
    Mutation("root_of_sum", "no barrier", _FIRST, "", RESULTS),
    Mutation("root_of_sum", "no limit", "joint <= limit ? acc(1)", "true ? acc(1)", RESULTS),
    Mutation("root_of_sum", "a sum too many", "i < count; i += THREADS) sum", "i <= count; i += THREADS) sum", ADDRESS),
    Mutation(
        "decode_cell",
        "a unit too many",
        "if (element >= (long long)N * H) return;",
        "if (element > (long long)N * H) return;",
        ADDRESS,
    ),
    Mutation("choose_words", "no barrier", _BEST, "", RESULTS),
    Mutation("choose_words", "no barrier", _BEST, "", THREAD),
    Mutation("choose_words", "a warp too many", "lane < warps ? Best", "lane <= warps ? Best", RESULTS),
    Mutation(
        "choose_words", "warps that leave before the barrier", _BEST, "if (warp > 0) return; __syncthreads();", FAULT
    ),
    Mutation("choose_words", "a score too many", "j < V; j += blockDim.x)", "j <= V; j += blockDim.x)", ADDRESS),
    Mutation("spin", "a turn too many", "turn < turns", "turn <= turns", RESULTS),
    Mutation("spin", "a word too far", "out[threadIdx.x] = x", "out[threadIdx.x + 1] = x", ADDRESS),
]

MUTATIONS = [
    *(mutation for kernel in PASSES for mutation in _of_a_pass(kernel)),
    *(mutation for kernel in PASSES for mutation in _of_the_step_tier(f"{kernel}_step")),
    *(
        mutation
        for kernel in PASSES
        for products in ("tensor", "split")
        for mutation in _of_resident_weights(f"{kernel}_{products}")
    ),
    *_BARRIER,
    *_GRU,
    *_ATTENTION,
    *_OTHERS,
]
