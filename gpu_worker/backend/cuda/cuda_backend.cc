#include "gpu_worker/backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/base/log.h"
#include "common/base/status.h"
#include "common/kv/kv_rows.h"
#include "gpu_worker/backend/check_rows.h"
#include "gpu_worker/backend/cuda/device_route_client.h"
#include "gpu_worker/backend/cuda/f8_probe.h"
#include "gpu_worker/backend/rope.h"
#include "gpu_worker/model/tensor_row.h"

namespace hga {
namespace {

constexpr uint32_t kNormThreads = 256, kHeadWarps = 4, kStateThreads = 64;

DeviceTraits TraitsOf(const Device& device) {
  return {device.has_gemm(), device.has_f8_gemm(), device.free_bytes()};
}

LaunchShape NormShape(uint32_t rows, uint32_t width) {
  const uint32_t threads = std::min(kNormThreads, (width + 31) / 32 * 32);
  return {rows, 1, threads, threads / 32 * 4};
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Create(std::unique_ptr<Device> device,
                                                                 const ModelWeights& weights,
                                                                 const KvGeometry& geometry,
                                                                 const CudaBackendOptions& options) {
  if (options.max_rows == 0 || options.max_rows > 65535) {
    return absl::InvalidArgumentError("cuda backend: steps must have 1 to 65535 rows");
  }
  if (weights.config.experts > 1024) return absl::InvalidArgumentError("cuda backend: at most 1024 experts work");
  HGA_ASSIGN_OR_RETURN(const DevicePlan plan,
                       PlanDevice(weights, geometry, options, TraitsOf(*device)));
  LogInfo("cuda backend", {{"device", device->name()}, {"limit_bytes", plan.limit}, {"weights_bytes", plan.weights},
                           {"workspace_bytes", plan.workspace}, {"window_bytes", plan.window},
                           {"summary_bytes", plan.mirror.bytes}, {"summary_chunks", plan.mirror.chunks},
                           {"device_tier_bytes", plan.tier}});
  if (options.summary_bytes > 0 && options.summary_bytes != kSummariesAsRoomAllows && plan.mirror.chunks == 0) {
    LogWarning("no room for summaries on the device, or not token sketches of one bit: the router selects",
               {{"device_summaries", options.summary_bytes}, {"method", options.summary_method}});
  }
  std::unique_ptr<CudaBackend> backend(new CudaBackend(std::move(device), weights, geometry, options, plan));
  HGA_RETURN_IF_ERROR(backend->Load(weights));
  HGA_RETURN_IF_ERROR(backend->Allocate(weights));
  backend->TryF8();
  backend->graphs_.assign(kGemvRows, std::vector<std::optional<DeviceGraph>>(weights.config.layers + 1));
  return backend;
}

CudaBackend::CudaBackend(std::unique_ptr<Device> device, const ModelWeights& weights, const KvGeometry& geometry,
                         const CudaBackendOptions& options, const DevicePlan& plan)
    : device_(std::move(device)), config_(weights.config), geometry_(geometry), options_(options), plan_(plan),
      embedding_(weights.embedding), rope_frequencies_(RopeFrequencies(config_)),
      rope_magnitude_(RopeMagnitude(config_)), memory_(device_.get(), plan.limit) {}

CudaBackend::~CudaBackend() {
  for (int s = 0; s < kDeviceStreams; ++s) (void)device_->Synchronize(static_cast<DeviceStream>(s));
}

absl::Status CudaBackend::Load(const ModelWeights& weights) {
  HGA_ASSIGN_OR_RETURN(auto loader, WeightLoader::Create(device_.get(), &memory_));
  for (const LayerWeights& w : weights.layers) {
    Layer layer;
    HGA_ASSIGN_OR_RETURN(layer.attn_norm, loader->Vectors({w.attn_norm}));
    HGA_ASSIGN_OR_RETURN(layer.ffn_norm, loader->Vectors({w.ffn_norm}));
    HGA_ASSIGN_OR_RETURN(layer.qkv_bias, loader->Vectors({w.q_bias, w.k_bias, w.v_bias}));
    HGA_ASSIGN_OR_RETURN(layer.q_norm, loader->Vectors({w.q_norm}));
    HGA_ASSIGN_OR_RETURN(layer.k_norm, loader->Vectors({w.k_norm}));
    HGA_ASSIGN_OR_RETURN(layer.qkv, CudaLinear::Create(loader.get(), {w.q, w.k, w.v}));
    HGA_ASSIGN_OR_RETURN(layer.attn_output, CudaLinear::Create(loader.get(), {w.attn_output}));
    HGA_ASSIGN_OR_RETURN(layer.mlp, CudaMlp::Create(loader.get(), config_, w));
    layers_.push_back(std::move(layer));
  }
  HGA_ASSIGN_OR_RETURN(output_norm_, loader->Vectors({weights.output_norm}));
  HGA_ASSIGN_OR_RETURN(output_, CudaLinear::Create(loader.get(), {weights.output}));
  return device_->Synchronize(DeviceStream::kCompute);  // before the loader's buffers go
}

absl::Status CudaBackend::Allocate(const ModelWeights& weights) {
  const size_t rows = options_.max_rows, q = rows * config_.query_heads * config_.head_dim;
  const size_t kv = rows * config_.kv_heads * config_.head_dim * 2;
  const WorkspaceShape shape = WorkspaceShapeOf(weights, options_, TraitsOf(*device_));
  HGA_ASSIGN_OR_RETURN(workspace_, MakeWorkspace(shape, &memory_));
  if (shape.gemm_bytes > 0) device_->SetGemmWorkspace(workspace_.gemm, shape.gemm_bytes);
  HGA_ASSIGN_OR_RETURN(attention_, CudaAttention::Create(device_.get(), &memory_, geometry_,
                                                         AttentionOptionsOf(config_, options_, plan_.tier)));
  HGA_ASSIGN_OR_RETURN(mirror_, RouteMirror::Create(device_.get(), &memory_, geometry_, plan_.mirror));
  const auto pinned = [&](size_t bytes) { return PinnedBuffer::Allocate(device_.get(), bytes); };
  HGA_ASSIGN_OR_RETURN(x_, pinned(rows * config_.hidden * sizeof(float)));
  HGA_ASSIGN_OR_RETURN(positions_, pinned(rows * sizeof(uint32_t)));
  HGA_ASSIGN_OR_RETURN(cos_sin_, pinned(rows * config_.rope_dims * sizeof(float)));
  HGA_ASSIGN_OR_RETURN(queries_, pinned(q * sizeof(bf16)));
  const size_t few = std::min<size_t>(rows, kGemvRows);
  HGA_ASSIGN_OR_RETURN(guessed_, pinned(q / rows * few * sizeof(bf16)));
  HGA_ASSIGN_OR_RETURN(top_, pinned(size_t{kLogitRows} * kMaxTopLogits * sizeof(TokenLogit)));
  const size_t slices = (config_.vocab_size + kTopSlice - 1) / kTopSlice;
  HGA_ASSIGN_OR_RETURN(masses_, pinned(kLogitRows * slices * sizeof(uint64_t)));
  HGA_ASSIGN_OR_RETURN(seen_, pinned(kLogitRows * ((config_.vocab_size + size_t{63}) / 64) * sizeof(uint64_t)));
  HGA_ASSIGN_OR_RETURN(row_floats_, pinned(2 * kLogitRows * sizeof(float)));
  HGA_ASSIGN_OR_RETURN(kv_, pinned(kv * sizeof(bf16)));
  HGA_ASSIGN_OR_RETURN(log_sum_exp_, pinned(rows * config_.query_heads * sizeof(float)));
  HGA_ASSIGN_OR_RETURN(missed_, pinned(rows * config_.query_heads * sizeof(float)));
  HGA_ASSIGN_OR_RETURN(take_, pinned(kLogitRows * sizeof(uint32_t)));
  HGA_ASSIGN_OR_RETURN(heads_done_, device_->NewEvent());
  HGA_ASSIGN_OR_RETURN(kv_read_, device_->NewEvent());
  HGA_ASSIGN_OR_RETURN(rows_read_, device_->NewEvent());
  HGA_ASSIGN_OR_RETURN(logits_, pinned(size_t{kLogitRows} * config_.vocab_size * sizeof(float)));
  return absl::OkStatus();
}

// FP8 weights are multiplied as they are only where that has just given the right numbers.
void CudaBackend::TryF8() {
  if (workspace_.f8_probe == nullptr) return;
  const absl::Status status = ProbeF8Gemm(device_.get(), workspace_.f8_probe);
  if (status.ok()) {
    LogInfo("prompts are multiplied in FP8 with block scales");
    return;
  }
  LogWarning("no FP8 GEMM with block scales: FP8 weights are made bf16 for prompts",
             {{"error", std::string(status.message())}});
  workspace_.scratch.f8 = nullptr;
}

// Embeddings, positions and their sines, for the device.
void CudaBackend::FillRows() {
  const size_t pairs = rope_frequencies_.size();
  for (uint32_t r = 0; r < rows(); ++r) {
    DequantizeTensorRow(embedding_, rows_[r].token_id, x_.as<float>() + size_t{r} * config_.hidden);
    positions_.as<uint32_t>()[r] = rows_[r].position;
    float* cosines = cos_sin_.as<float>() + r * 2 * pairs;
    for (size_t i = 0; i < pairs; ++i) {
      const double angle = rows_[r].position * rope_frequencies_[i];
      cosines[i] = static_cast<float>(std::cos(angle) * rope_magnitude_);
      cosines[pairs + i] = static_cast<float>(std::sin(angle) * rope_magnitude_);
    }
  }
}

absl::Status CudaBackend::Begin(absl::Span<const BatchRow> rows_in) {
  HGA_RETURN_IF_ERROR(CheckRows(rows_in, options_.max_rows, config_));
  // The last step may still read the buffers that are filled now.
  HGA_RETURN_IF_ERROR(device_->Synchronize(DeviceStream::kCompute));
  HGA_RETURN_IF_ERROR(device_->Synchronize(DeviceStream::kToHost));
  kv_rows_.clear();  // of a step that was given up
  rows_taken_ = true;
  started_ = kNoLayer;
  rows_.assign(rows_in.begin(), rows_in.end());
  attention_->BeginStep();
  FillRows();
  const size_t n = rows_.size();
  const auto copy = [&](void* to, const PinnedBuffer& from, size_t bytes) {
    return device_->CopyToDevice(DeviceStream::kCompute, to, from.as(), bytes);
  };
  HGA_RETURN_IF_ERROR(copy(workspace_.x, x_, n * config_.hidden * sizeof(float)));
  HGA_RETURN_IF_ERROR(copy(workspace_.positions, positions_, n * sizeof(uint32_t)));
  return copy(workspace_.cos_sin, cos_sin_, n * rope_frequencies_.size() * 2 * sizeof(float));
}

// Of x into normed: floats if rows are few or `exactly`, bf16 if they are many.
absl::Status CudaBackend::Norm(const DeviceBuffer& scale, uint32_t n, bool exactly, const uint32_t* take) {
  const bool few = IsFewRows(n);
  return device_->Launch(
      DeviceStream::kCompute, NormShape(n, config_.hidden),
      RmsNormArgs{workspace_.x, scale.as<float>(), take, few || exactly ? workspace_.normed : nullptr,
                  few ? nullptr : workspace_.normed_bf16, config_.hidden, config_.rms_epsilon});
}

// Norm and projections of x: queries, keys and values as they come.
absl::Status CudaBackend::Project(const Layer& w) {
  HGA_RETURN_IF_ERROR(Norm(w.attn_norm, rows(), false, nullptr));
  return w.qkv.Apply(device_.get(), workspace_.scratch, {workspace_.normed, workspace_.normed_bf16}, rows(),
                     workspace_.qkv);
}

FinishHeadsArgs CudaBackend::HeadsArgs(const Layer& w) const {
  const Workspace& ws = workspace_;
  FinishHeadsArgs a{};
  a.qkv = ws.qkv;
  a.bias = w.qkv_bias.as<float>();
  a.q_norm = w.q_norm.as<float>();
  a.k_norm = w.k_norm.as<float>();
  a.cos_sin = ws.cos_sin;
  a.q = ws.q;
  a.q_bf16 = ws.q_bf16;
  a.kv = ws.kv;
  a.m = ws.m;
  a.l = ws.l;
  a.o = ws.o;
  a.sums = ws.value_sums;
  a.counts = ws.value_counts;
  a.rows = rows();
  a.query_heads = config_.query_heads;
  a.kv_heads = config_.kv_heads;
  a.head_dim = config_.head_dim;
  a.rope_dims = static_cast<uint32_t>(2 * rope_frequencies_.size());
  a.adjacent = config_.rope_style == RopeStyle::kAdjacentPairs;
  a.int8 = geometry_.dtype == KvDtype::kInt8;
  a.epsilon = config_.rms_epsilon;
  return a;
}

absl::Status CudaBackend::LaunchHeads(const FinishHeadsArgs& args) {
  const uint32_t heads = args.rows * (config_.query_heads + 2 * config_.kv_heads);
  return device_->Launch(DeviceStream::kCompute,
                         {(heads + kHeadWarps - 1) / kHeadWarps, 1, kHeadWarps * 32, kHeadWarps * config_.head_dim * 4},
                         args);
}

absl::Status CudaBackend::ReadQueries() {
  const size_t elements = size_t{rows()} * config_.query_heads * config_.head_dim;
  return device_->CopyToHost(DeviceStream::kCompute, queries_.as(), workspace_.q_bf16, elements * sizeof(bf16));
}

absl::Status CudaBackend::ReadKv(DeviceStream stream) {
  const size_t elements = size_t{rows()} * config_.kv_heads * 2 * config_.head_dim;
  return device_->CopyToHost(stream, kv_.as(), workspace_.kv, elements * sizeof(bf16));
}

// Into their blocks.
void CudaBackend::StoreKv() {
  const size_t d = config_.head_dim, n = kv_rows_.size();
  for (size_t h = 0; h < config_.kv_heads; ++h) {
    const bf16 *keys = kv_.as<bf16>() + 2 * h * n * d, *values = keys + n * d;
    for (size_t r = 0; r < n; ++r) {
      const KvRow& to = kv_rows_[r];
      WriteKv(geometry_, keys + r * d, values + r * d, to.block, static_cast<uint32_t>(h), to.token_in_chunk);
    }
  }
  kv_rows_.clear();
}

absl::Status CudaBackend::StartLayer(uint32_t layer) {
  HGA_RETURN_IF_ERROR(Project(layers_[layer]));
  HGA_RETURN_IF_ERROR(LaunchHeads(HeadsArgs(layers_[layer])));
  if (StreamsKv()) {
    HGA_RETURN_IF_ERROR(device_->Record(heads_done_, DeviceStream::kCompute));
    HGA_RETURN_IF_ERROR(device_->Wait(DeviceStream::kToHost, heads_done_));
    HGA_RETURN_IF_ERROR(ReadKv(DeviceStream::kToHost));
    HGA_RETURN_IF_ERROR(device_->Record(kv_read_, DeviceStream::kToHost));
  } else {
    HGA_RETURN_IF_ERROR(ReadKv(DeviceStream::kCompute));
  }
  return ReadQueries();
}

absl::Status CudaBackend::CrossBoundary(uint32_t boundary) {
  if (boundary > 0) HGA_RETURN_IF_ERROR(EndLayer(boundary - 1));
  return boundary < layers_.size() ? StartLayer(boundary) : absl::OkStatus();
}

// The same launches with the same arguments in every step of so many rows: recorded once where rows are few.
absl::Status CudaBackend::LaunchBoundary(uint32_t boundary) {
  started_ = boundary;
  if (!options_.graphs || !IsFewRows(rows())) return CrossBoundary(boundary);
  std::optional<DeviceGraph>& graph = graphs_[rows() - 1][boundary];
  if (!graph.has_value()) {
    HGA_RETURN_IF_ERROR(device_->BeginCapture(DeviceStream::kCompute));
    const absl::Status status = CrossBoundary(boundary);
    const absl::StatusOr<DeviceGraph> recorded = device_->EndCapture();
    HGA_RETURN_IF_ERROR(status);
    HGA_RETURN_IF_ERROR(recorded.status());
    graph = *recorded;
  }
  return device_->LaunchGraph(DeviceStream::kCompute, *graph);
}

absl::Status CudaBackend::PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) {
  HGA_RETURN_IF_ERROR(CheckKvRows(geometry_, layer, kv_rows, rows_.size()));
  layer_ = layer;
  if (started_ != layer) HGA_RETURN_IF_ERROR(layer == 0 ? LaunchBoundary(0) : StartLayer(layer));
  kv_rows_.assign(kv_rows.begin(), kv_rows.end());
  attention_->SetOwnRows(kv_is_rewritten_ ? absl::Span<const KvRow>() : kv_rows, workspace_.kv);
  // What attends the window is put together and given to the device before the rows are waited for.
  HGA_RETURN_IF_ERROR(device_->Record(rows_read_, DeviceStream::kCompute));
  rows_taken_ = false;
  if (kv_is_rewritten_) HGA_RETURN_IF_ERROR(TakeRows());
  return attention_->WaitForPrefetch();  // what it reads may be let go in this layer
}

absl::Status CudaBackend::TakeRows() {
  if (rows_taken_) return absl::OkStatus();
  HGA_RETURN_IF_ERROR(device_->Synchronize(rows_read_));
  rows_taken_ = true;
  if (!StreamsKv()) StoreKv();
  return absl::OkStatus();
}

// The seam has no room for an error here; the device keeps it, and the next call returns it.
const bf16* CudaBackend::queries() {
  (void)TakeRows();
  return queries_.as<bf16>();
}

absl::Status CudaBackend::Attend(const AttendPlan& plan) {
  HGA_RETURN_IF_ERROR(CheckPlan(geometry_, plan, rows_.size()));
  return attention_->Attend(layer_, plan, workspace_);
}

absl::Status CudaBackend::Prefetch(uint32_t layer, const AttendPlan& plan) {
  HGA_RETURN_IF_ERROR(CheckPlan(geometry_, plan, rows_.size()));
  return attention_->Prefetch(layer, plan);
}

std::unique_ptr<RouteClient> CudaBackend::MirrorRouter(std::unique_ptr<RouteClient> router,
                                                       const SummaryMethod* method, SummarySource source) {
  if (mirror_ == nullptr) return router;
  if (!mirror_->Takes(*method)) {
    LogWarning("the device's memory is for other summaries: nothing is selected there", {{"method", method->name}});
    return router;
  }
  if (!router->rules().has_value()) {
    LogWarning("the router does not say how it selects: nothing is selected on the device");
    return router;
  }
  return std::make_unique<DeviceRouteClient>(std::move(router), mirror_.get(), method, std::move(source));
}

const float* CudaBackend::LogSumExp() {
  const uint32_t count = rows() * config_.query_heads;
  absl::Status status = device_->Launch(DeviceStream::kCompute, {(count + 255) / 256, 1, 256, 0},
                                        LogSumExpArgs{workspace_.m, workspace_.l, workspace_.log_sum_exp, count});
  if (status.ok()) {
    status = device_->CopyToHost(DeviceStream::kCompute, log_sum_exp_.as(), workspace_.log_sum_exp,
                                 count * sizeof(float));
  }
  if (status.ok()) status = device_->Synchronize(DeviceStream::kCompute);
  if (status.ok()) status = TakeRows();
  // As in queries().
  if (!status.ok()) std::fill_n(log_sum_exp_.as<float>(), count, -INFINITY);
  return log_sum_exp_.as<float>();
}

absl::Status CudaBackend::AddResidual(const float* missed) {
  const uint32_t states = rows() * config_.query_heads;
  HGA_RETURN_IF_ERROR(TakeRows());  // and with them for the last copy from there
  std::copy_n(missed, states, missed_.as<float>());
  const Workspace& ws = workspace_;
  HGA_RETURN_IF_ERROR(
      device_->CopyToDevice(DeviceStream::kCompute, ws.missed, missed_.as(), states * sizeof(float)));
  return device_->Launch(DeviceStream::kCompute, {states, 1, kStateThreads, 0},
                         AddResidualArgs{ws.missed, ws.value_sums, ws.value_counts, ws.m, ws.l, ws.o,
                                         config_.query_heads, geometry_.queries_per_kv_head(), config_.head_dim});
}

const bf16* CudaBackend::GuessQueries(uint32_t layer) {
  if (!IsFewRows(rows())) return nullptr;
  const Layer& w = layers_[layer];
  FinishHeadsArgs args = HeadsArgs(w);
  args.q_bf16 = workspace_.guessed_queries;
  args.only_queries = 1;
  absl::Status status = Project(w);
  if (status.ok()) status = LaunchHeads(args);
  const size_t bytes = size_t{rows()} * config_.query_heads * config_.head_dim * sizeof(bf16);
  if (status.ok()) {
    status = device_->CopyToHost(DeviceStream::kCompute, guessed_.as(), workspace_.guessed_queries, bytes);
  }
  if (status.ok()) status = device_->Synchronize(DeviceStream::kCompute);
  return status.ok() ? guessed_.as<bf16>() : nullptr;  // the device keeps the error, and the next call returns it
}

absl::Status CudaBackend::EndLayer(uint32_t layer) {
  const Layer& w = layers_[layer];
  const Workspace& ws = workspace_;
  const uint32_t n = rows();
  const bool few = IsFewRows(n);
  HGA_RETURN_IF_ERROR(device_->Launch(DeviceStream::kCompute, {n * config_.query_heads, 1, kStateThreads, 0},
                                      FinishAttentionArgs{ws.l, ws.o, few ? ws.attended : nullptr,
                                                          few ? nullptr : ws.attended_bf16, config_.head_dim}));
  HGA_RETURN_IF_ERROR(
      w.attn_output.AddTo(device_.get(), ws.scratch, {ws.attended, ws.attended_bf16}, n, ws.projected, ws.x));
  HGA_RETURN_IF_ERROR(Norm(w.ffn_norm, n, config_.experts > 0, nullptr));
  return w.mlp.Apply(device_.get(), config_, n, ws);
}

absl::Status CudaBackend::PostAttention(uint32_t layer) {
  HGA_RETURN_IF_ERROR(TakeRows());  // the next layer's come into the same memory
  if (StreamsKv()) {
    HGA_RETURN_IF_ERROR(EndLayer(layer));
    HGA_RETURN_IF_ERROR(device_->Synchronize(kv_read_));  // while the device works on the layer
    StoreKv();
    started_ = layer + 1;
    if (started_ < layers_.size()) HGA_RETURN_IF_ERROR(StartLayer(started_));
  } else {
    HGA_RETURN_IF_ERROR(LaunchBoundary(layer + 1));
  }
  // After the last layer the step's K/V may be let go.
  return started_ < layers_.size() ? absl::OkStatus() : device_->Synchronize(DeviceStream::kCompute);
}

}  // namespace hga
