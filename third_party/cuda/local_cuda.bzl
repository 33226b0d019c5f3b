"""The CUDA toolkit of the machine as @local_cuda, and how kernels are compiled with it."""

# What the binaries carry machine code for; the newest as PTX too, for devices that come later.
CUDA_ARCHITECTURES = ["80", "89", "90", "100", "120"]

_BUILD = """package(default_visibility = ["//visibility:public"])

cc_library(
    name = "runtime",
    hdrs = glob(["include/**"]),
    includes = ["include"],
    srcs = ["lib/libcudart_static.a"],
    linkopts = ["-ldl", "-lrt", "-lpthread"],
)

exports_files(["nvcc.txt"])
"""

def _local_cuda_impl(ctx):
    home = ctx.os.environ.get("CUDA_HOME", "/usr/local/cuda")
    if not ctx.path(home + "/include/cuda_runtime_api.h").exists:
        fail("--config=cuda needs the CUDA toolkit: no %s; CUDA_HOME says where it is" % (home + "/include"))
    lib = home + "/lib64"
    nvcc = ctx.path(home + "/bin/nvcc")
    if not nvcc.exists:
        nvcc = ctx.which("nvcc")
    if nvcc == None:
        fail("--config=cuda needs nvcc")
    for header in ctx.path(home + "/include").readdir():
        if header.basename.startswith(("cuda", "cublasLt", "driver_", "vector_", "builtin_", "host_", "device_", "crt",
                                       "cublas", "library_types", "surface_types", "texture_types", "channel_desc",
                                       "common_functions")):
            ctx.symlink(header, "include/" + header.basename)
    ctx.symlink(lib + "/libcudart_static.a", "lib/libcudart_static.a")

    # A new compiler makes another file, and so builds the kernels again.
    version = ctx.execute([str(nvcc), "--version"]).stdout
    ctx.file("nvcc.txt", str(nvcc) + "\n" + version)
    ctx.file("BUILD", _BUILD)

local_cuda = repository_rule(
    implementation = _local_cuda_impl,
    environ = ["CUDA_HOME"],
    local = True,
)

def cuda_object(name, src, hdrs, architectures = CUDA_ARCHITECTURES, **kwargs):
    """Compiles `src` (.cu) with nvcc into an object that a cc_library can take as a source: <name>.o.

    Args:
      name: of the rule.
      src: the .cu file.
      hdrs: every header of this tree that it includes.
      architectures: compute capabilities without the dot.
      **kwargs: tags and the like.
    """
    codes = ["-gencode=arch=compute_%s,code=sm_%s" % (a, a) for a in architectures]
    codes.append("-gencode=arch=compute_%s,code=compute_%s" % (architectures[-1], architectures[-1]))
    native.genrule(
        name = name,
        srcs = [src, "@local_cuda//:nvcc.txt"] + hdrs,
        outs = [name + ".o"],
        cmd = ("$$(head -n 1 $(location @local_cuda//:nvcc.txt)) -c -O3 -std=c++17 -lineinfo --threads 1 " +
               "-Xcompiler=-Wall,-Wextra,-Wno-unused-parameter -I. " + " ".join(codes) +
               " $(location %s) -o $@" % src),
        **kwargs
    )
