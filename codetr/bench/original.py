"""The original design of the operation as CUDA kernels of our own, a stand-in for the extension where it is not built.

As in Deformable DETR's extension (its design, none of its code): float32 alone; forward one thread for each image,
query, head and channel, each of which computes the coordinates anew; backward one block for each image, query and head,
one thread a channel, four scalar atomic additions for each point and channel, and a reduction in shared memory for the
gradients of locations and weights. The reduction is a tree, which for up to 32 channels the extension does serially.
Compiled at run time by NVRTC.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

THREADS = 1024
"""Of a forward block, as the extension has it."""

# It must start with extern "C": some versions of torch put that before a source that does not.
SOURCE = r"""extern "C" {

__device__ __forceinline__ bool is_inside(float y, float x, int height, int width) {
    return y > -1.0f && x > -1.0f && y < height && x < width;
}

__device__ __forceinline__ float read(const float* level, int y, int x, int height, int width, int stride) {
    return y >= 0 && x >= 0 && y < height && x < width ? level[(y * width + x) * stride] : 0.0f;
}

__global__ void forward_kernel(const float* value, const int* shapes, const int* starts, const float* locations,
                               const float* weights, float* output, int size, int S, int H, int D, int Q, int L,
                               int P) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= size) return;
    int channel = index % D;
    int row = index / D;
    int head = row % H;
    int image = row / H / Q;
    int stride = H * D;
    const float* base = value + image * S * stride + head * D + channel;
    int point = row * L * P;
    float sum = 0.0f;
    for (int l = 0; l < L; ++l) {
        int height = shapes[2 * l], width = shapes[2 * l + 1];
        const float* level = base + starts[l] * stride;
        for (int p = 0; p < P; ++p, ++point) {
            float x = locations[2 * point] * width - 0.5f;
            float y = locations[2 * point + 1] * height - 0.5f;
            if (!is_inside(y, x, height, width)) continue;
            int x0 = floorf(x), y0 = floorf(y);
            float fx = x - x0, fy = y - y0;
            float v00 = read(level, y0, x0, height, width, stride);
            float v01 = read(level, y0, x0 + 1, height, width, stride);
            float v10 = read(level, y0 + 1, x0, height, width, stride);
            float v11 = read(level, y0 + 1, x0 + 1, height, width, stride);
            float sample = (1 - fy) * ((1 - fx) * v00 + fx * v01) + fy * ((1 - fx) * v10 + fx * v11);
            sum += weights[point] * sample;
        }
    }
    output[index] = sum;
}

__device__ __forceinline__ void add(float* level, int y, int x, int height, int width, int stride, float amount) {
    if (y >= 0 && x >= 0 && y < height && x < width) atomicAdd(level + (y * width + x) * stride, amount);
}

__global__ void backward_kernel(const float* grad, const float* value, const int* shapes, const int* starts,
                                const float* locations, const float* weights, float* grad_value,
                                float* grad_locations, float* grad_weights, int S, int H, int D, int Q, int L, int P) {
    extern __shared__ float shared[];
    float* shared_weight = shared;
    float* shared_x = shared + D;
    float* shared_y = shared + 2 * D;
    int row = blockIdx.x;
    int channel = threadIdx.x;
    int head = row % H;
    int image = row / H / Q;
    int stride = H * D;
    int offset = image * S * stride + head * D + channel;
    float g = grad[row * D + channel];
    int point = row * L * P;
    for (int l = 0; l < L; ++l) {
        int height = shapes[2 * l], width = shapes[2 * l + 1];
        const float* level = value + offset + starts[l] * stride;
        float* grad_level = grad_value + offset + starts[l] * stride;
        for (int p = 0; p < P; ++p, ++point) {
            float x = locations[2 * point] * width - 0.5f;
            float y = locations[2 * point + 1] * height - 0.5f;
            float weight = weights[point];
            float along_weight = 0.0f, along_x = 0.0f, along_y = 0.0f;
            if (is_inside(y, x, height, width)) {
                int x0 = floorf(x), y0 = floorf(y);
                float fx = x - x0, fy = y - y0;
                float v00 = read(level, y0, x0, height, width, stride);
                float v01 = read(level, y0, x0 + 1, height, width, stride);
                float v10 = read(level, y0 + 1, x0, height, width, stride);
                float v11 = read(level, y0 + 1, x0 + 1, height, width, stride);
                float wg = weight * g;
                add(grad_level, y0, x0, height, width, stride, (1 - fy) * (1 - fx) * wg);
                add(grad_level, y0, x0 + 1, height, width, stride, (1 - fy) * fx * wg);
                add(grad_level, y0 + 1, x0, height, width, stride, fy * (1 - fx) * wg);
                add(grad_level, y0 + 1, x0 + 1, height, width, stride, fy * fx * wg);
                along_weight = g * ((1 - fy) * ((1 - fx) * v00 + fx * v01) + fy * ((1 - fx) * v10 + fx * v11));
                along_x = width * wg * ((1 - fy) * (v01 - v00) + fy * (v11 - v10));
                along_y = height * wg * ((1 - fx) * (v10 - v00) + fx * (v11 - v01));
            }
            shared_weight[channel] = along_weight;
            shared_x[channel] = along_x;
            shared_y[channel] = along_y;
            __syncthreads();
            for (int left = D; left > 1;) {
                int half = (left + 1) / 2;
                if (channel < left - half) {
                    shared_weight[channel] += shared_weight[channel + half];
                    shared_x[channel] += shared_x[channel + half];
                    shared_y[channel] += shared_y[channel + half];
                }
                left = half;
                __syncthreads();
            }
            if (channel == 0) {
                grad_weights[point] = shared_weight[0];
                grad_locations[2 * point] = shared_x[0];
                grad_locations[2 * point + 1] = shared_y[0];
            }
            __syncthreads();
        }
    }
}

__global__ void gather_kernel(const float4* table, const int* index, float4* output, int bags, int bag, int vectors) {
    int thread = blockIdx.x * blockDim.x + threadIdx.x;
    int row = thread / vectors, lane = thread % vectors;
    if (row >= bags) return;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    #pragma unroll 8
    for (int i = 0; i < bag; ++i) {
        float4 read = table[index[row * bag + i] * vectors + lane];
        sum.x += read.x;
        sum.y += read.y;
        sum.z += read.z;
        sum.w += read.w;
    }
    output[row * vectors + lane] = sum;
}

}
"""


def can_compile(device: torch.device) -> bool:
    """Whether the kernels run on a device: NVIDIA's, with a torch that compiles at run time."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and importlib.util.find_spec("torch.cuda._utils") is not None
    )


@functools.cache
def _kernel(name: str, device: int) -> Callable[..., None]:
    from torch.cuda import _compile_kernel

    with torch.cuda.device(device):
        kernel: Callable[..., None] = _compile_kernel(SOURCE, name)
    return kernel


@functools.lru_cache(maxsize=16)
def level_tensors(
    shapes: tuple[tuple[int, int], ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(L, 2) heights and widths, and (L,) where each level starts."""
    starts = [0]
    for height, width in shapes[:-1]:
        starts.append(starts[-1] + height * width)
    return torch.tensor(shapes, dtype=dtype, device=device), torch.tensor(starts, dtype=dtype, device=device)


class _Original(torch.autograd.Function):
    """Everything float32 and contiguous."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor
    ) -> Tensor:
        batch, tokens, heads, channels = value.shape
        _, queries, _, levels, points, _ = locations.shape
        output = value.new_empty(batch, queries, heads * channels)
        sizes = [tokens, heads, channels, queries, levels, points]
        table = level_tensors(shapes, value.device, torch.int32)
        grid = (-(-output.numel() // THREADS), 1, 1)
        arguments = [value, *table, locations, weights, output, output.numel(), *sizes]
        _kernel("forward_kernel", value.get_device())(grid=grid, block=(THREADS, 1, 1), args=arguments)
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes, ctx.sizes = shapes, sizes
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        value, locations, weights = ctx.saved_tensors
        grads = torch.zeros_like(value), torch.empty_like(locations), torch.empty_like(weights)
        batch, _, heads, channels = value.shape
        table = level_tensors(ctx.shapes, value.device, torch.int32)
        arguments = [grad.contiguous(), value, *table, locations, weights, *grads, *ctx.sizes]
        _kernel("backward_kernel", value.get_device())(
            grid=(batch * locations.shape[1] * heads, 1, 1),
            block=(channels, 1, 1),
            args=arguments,
            shared_mem=3 * channels * 4,
        )
        return grads[0], None, grads[1], grads[2]


def original(value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor) -> Tensor:
    """`deform_attention` by the original design. Arguments of other types are cast to float32, as its users do."""
    operands = [tensor.float().contiguous() for tensor in (value, locations, weights)]
    output: Tensor = _Original.apply(operands[0], shapes, operands[1], operands[2])
    return output.to(value.dtype)


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """(N, W) sums of the rows of `table` (R, W) that each row of `index` (N, K) names, by 16 bytes: float32, int32."""
    bags, bag = index.shape
    vectors = table.shape[1] // 4
    output = table.new_empty(bags, table.shape[1])
    grid = (-(-bags * vectors // 256), 1, 1)
    arguments = [table, index, output, bags, bag, vectors]
    _kernel("gather_kernel", table.get_device())(grid=grid, block=(256, 1, 1), args=arguments)
    return output
