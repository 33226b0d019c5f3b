"""C++ code from .proto files with the system's protoc and gRPC plugin."""

def hga_proto(name, src, deps = [], grpc = False):
    """One cc_library for one .proto file.

    Args:
      name: of the library.
      src: the .proto, named from the repository's root in import lines.
      deps: other hga_proto targets that src imports.
      grpc: generate the service's stubs too.
    """
    base = src[:-len(".proto")]
    outs = [base + ".pb.h", base + ".pb.cc"]
    flags = "--cpp_out=$(GENDIR)"
    if grpc:
        outs += [base + ".grpc.pb.h", base + ".grpc.pb.cc"]
        flags += " --grpc_out=$(GENDIR) --plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin"
    native.filegroup(
        name = name + "_proto",
        srcs = [src] + [d + "_proto" for d in deps],
        visibility = ["//visibility:public"],
    )
    native.genrule(
        name = name + "_gen",
        srcs = [src] + [d + "_proto" for d in deps],
        outs = outs,
        cmd = "/usr/bin/protoc -I. %s $(location %s)" % (flags, src),
    )
    native.cc_library(
        name = name,
        srcs = [o for o in outs if o.endswith(".cc")],
        hdrs = [o for o in outs if o.endswith(".h")],
        copts = ["-w"],
        visibility = ["//visibility:public"],
        deps = deps + ["@com_google_protobuf//:protobuf"] +
               (["@com_github_grpc_grpc//:grpc++"] if grpc else []),
    )
