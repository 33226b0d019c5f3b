"""Debian's libraries as Bazel repositories with their upstream labels."""

def _flags(ctx, query, modules):
    result = ctx.execute(["pkg-config", query] + modules)
    if result.return_code != 0:
        fail("pkg-config %s %s: %s\nRun deploy/install_packages.sh first." %
             (query, " ".join(modules), result.stderr))
    return [f for f in result.stdout.strip().split(" ") if f]

def _dedup_keep_last(items):
    seen = {}
    kept = []
    for item in reversed(items):
        if item not in seen:
            seen[item] = True
            kept.append(item)
    return reversed(kept)

def _linkopts(ctx, spec):
    if spec.startswith("pkg:"):
        modules = spec[len("pkg:"):].split(",")
        flags = _dedup_keep_last([f for f in _flags(ctx, "--libs", modules) if f.startswith("-l")])
        version = ctx.execute(["pkg-config", "--modversion"] + modules).stdout.strip().replace("\n", "_")
    else:
        flags = [f for f in spec[len("lib:"):].split(",") if f]
        version = "system"
    return flags, version

def _system_library_impl(ctx):
    packages = {}
    for label, spec in ctx.attr.targets.items():
        package, name = label.split(":")
        flags, version = _linkopts(ctx, spec)
        if flags:
            # A static archive may need another twice; a group settles the order.
            flags = (["-Wl,--push-state,--as-needed", "-Wl,--start-group"] + flags +
                     ["-Wl,--end-group", "-Wl,--pop-state"])

        # The version is a define so that an upgrade of the system's headers, which are no
        # inputs of an action, rebuilds what includes them.
        packages.setdefault(package, []).append(
            ("cc_library(\n    name = %r,\n    linkopts = %r,\n    defines = [%r],\n" +
             "    visibility = [\"//visibility:public\"],\n)\n") %
            (name, flags, "HGA_DEP_%s=\"%s\"" % (name.upper().replace("-", "_").replace("+", "X"), version)),
        )
    for package, rules in packages.items():
        ctx.file((package + "/" if package else "") + "BUILD", "\n".join(rules))
    if "" not in packages:
        ctx.file("BUILD", "")

system_library = repository_rule(
    implementation = _system_library_impl,
    attrs = {"targets": attr.string_dict(mandatory = True)},
    local = True,
    doc = "targets: '<package>:<name>' to 'pkg:<module>,...' (pkg-config) or 'lib:-lx,...' (literal).",
)
