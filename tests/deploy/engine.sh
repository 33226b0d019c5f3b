# Sourced by run.sh: a container engine of the test's own, the images that no registry gives, a small disk.
# Expects: state (absolute folder), root, keep_images ("" or 1). Sets DOCKER_HOST, which run.sh exports.

engine_pid=""

install_engine() {
  local missing=() package
  for package in docker.io docker-compose debootstrap iptables e2fsprogs; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  echo "deploy test: installing ${missing[*]}"
  apt-get -q update >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null </dev/null
}

# By hand and with absolute paths, so that it works where no init system runs and beside an engine that is there.
start_engine() {
  mkdir -p "$state"
  DOCKER_HOST="unix://$state/docker.sock"
  export DOCKER_HOST
  /usr/sbin/dockerd --data-root "$state/data" --exec-root "$state/exec" -H "$DOCKER_HOST" \
    --pidfile "$state/docker.pid" >"$state/dockerd.log" 2>&1 </dev/null &
  engine_pid=$!
  for _ in $(seq 100); do
    /usr/bin/docker info >/dev/null 2>&1 && return 0
    kill -0 "$engine_pid" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 20 "$state/dockerd.log" >&2
  return 1
}

stop_engine() {
  [ -n "$engine_pid" ] || return 0
  kill -TERM "$engine_pid" 2>/dev/null || true
  wait "$engine_pid" 2>/dev/null || true
  engine_pid=""
  # The engine leaves its network namespaces mounted; the folder could not be removed.
  umount "$state"/exec/netns/* 2>/dev/null || true
}

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# The real base where a registry answers, else one made from Debian's packages under its name.
provide_base() {
  has_image debian:bookworm-slim && return 0
  timeout 60 docker pull -q debian:bookworm-slim >/dev/null 2>&1 && return 0
  echo "deploy test: no registry answers; debian:bookworm-slim is a stand-in made by debootstrap"
  local tree="$state/base"
  rm -rf "$tree"
  debootstrap --variant=minbase bookworm "$tree" >"$state/debootstrap.log" 2>&1
  # As the published one: no documentation, no package lists.
  rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* \
    "$tree"/usr/share/{doc,man,info,locale}/*
  tar -C "$tree" -c . | docker import - debian:bookworm-slim >/dev/null
  rm -rf "$tree"
}

# provide_program IMAGE TARGET
provide_program() {
  has_image "$1" && return 0
  timeout 60 docker pull -q "$1" >/dev/null 2>&1 && return 0
  echo "deploy test: $1 is a stand-in made of Debian's package"
  docker build -q -f "$root/tests/deploy/stand_ins.Dockerfile" --target "$2" -t "$1" "$root/tests/deploy" >/dev/null
}

# A disk of the store's own, small enough to be filled.
make_disk() {
  HGA_TEST_STORE="$state/store"
  export HGA_TEST_STORE
  mkdir -p "$HGA_TEST_STORE"
  truncate -s "$1" "$state/store.img"
  mkfs.ext4 -q -F -m 0 "$state/store.img"
  mount -o loop "$state/store.img" "$HGA_TEST_STORE"
  chown 10001:10001 "$HGA_TEST_STORE"
  chmod 0700 "$HGA_TEST_STORE"
}

remove_disk() {
  ! mountpoint -q "$state/store" || umount "$state/store"
  rm -rf "$state/store" "$state/store.img"
}
