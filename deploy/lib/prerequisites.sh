# shellcheck shell=bash
# What building and testing need from the host: found, explained, installed. Sourced by deploy/quickstart and
# deploy/test; it defines functions and does nothing by itself.
#
#   prerequisites_toolchain ROOT        cargo is there and is the version that ROOT/rust-toolchain.toml pins
#   prerequisites_install PURPOSE...    installs what the purposes need: build, run, test
#
# Both print what they find on standard error and return 1 with the command to type when they cannot go on.

# package | probe | why
PREREQUISITES_BUILD=(
    "git|command git|BoringSSL's sources are prepared with it"
    "cmake|command cmake|BoringSSL is built with it"
    "make|command make|cmake drives it"
    "g++|command g++|BoringSSL is written in C++"
    "clang|command clang|bindgen reads headers the way clang does"
    "libclang-dev|libclang|bindgen loads this library"
    "pkg-config|command pkg-config|finds hwloc and udev"
    "libhwloc-dev|pkgconfig hwloc 2.8|processors, caches and memory nodes of the host"
    "libudev-dev|pkgconfig libudev 0|hwloc is linked with it"
    "libzstd-dev|pkgconfig libzstd 1.4|the agreement engine's storage is linked with it"
)
PREREQUISITES_RUN=(
    "iproute2|command ip|network namespaces and the veth pair between the two nodes"
    "curl|command curl|a real client of an attached service"
    "python3|command python3|a real server behind a published service, and the architecture check"
)
PREREQUISITES_TEST=(
    "python3-venv|pyvenv|a place for the independent QUIC client"
    "openssl|command openssl|an independent judge of certificates"
    "gnutls-bin|command certtool|another independent judge of certificates"
    "strace|command strace|counts system calls of a loaded worker"
    "util-linux|command nsenter|a namespace with a small disk of its own, which runs full"
    "mount|command mount|mounts that disk"
    "softhsm2|command softhsm2-util|a PKCS#11 token in software, for the signer"
    "etcd-server|command etcd|three members hold the records of two authorities"
    "etcd-client|command etcdctl|asks those members who leads"
)

prerequisites_say() {
    printf 'prerequisites: %s\n' "$*" >&2
}

# Whether one probe finds what it looks for
prerequisites_found() {
    local kind=$1
    shift
    case $kind in
        command) command -v "$1" >/dev/null ;;
        pkgconfig) command -v pkg-config >/dev/null && pkg-config --atleast-version="$2" "$1" ;;
        pyvenv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
        libclang)
            [ -n "${LIBCLANG_PATH:-}" ] ||
                compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null ||
                compgen -G '/usr/lib*/libclang.so*' >/dev/null ||
                compgen -G '/usr/lib/*/libclang*.so*' >/dev/null
            ;;
        *)
            prerequisites_say "no probe is called $kind"
            return 2
            ;;
    esac
}

# Prints the packages of the given entries that are missing, one per line, and says why each is needed
prerequisites_missing() {
    local entry package probe why
    for entry in "$@"; do
        IFS='|' read -r package probe why <<<"$entry"
        # The probe is a word and its arguments.
        # shellcheck disable=SC2086
        if ! prerequisites_found $probe; then
            prerequisites_say "$package is missing: $why"
            printf '%s\n' "$package"
        fi
    done
}

prerequisites_install() {
    local purpose entries=() missing=() command
    for purpose in "$@"; do
        case $purpose in
            build) entries+=("${PREREQUISITES_BUILD[@]}") ;;
            run) entries+=("${PREREQUISITES_RUN[@]}") ;;
            test) entries+=("${PREREQUISITES_TEST[@]}") ;;
            *)
                prerequisites_say "no purpose is called $purpose: build, run or test"
                return 1
                ;;
        esac
    done
    mapfile -t missing < <(prerequisites_missing "${entries[@]}")
    [ "${#missing[@]}" -eq 0 ] && return 0

    command="apt-get install --yes --no-install-recommends ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        prerequisites_say "this is no Debian: install with your own package manager what Debian calls: ${missing[*]}"
        return 1
    fi
    local privilege=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            prerequisites_say "root must install them; type as root:  apt-get update && $command"
            return 1
        fi
        privilege=(sudo)
    fi
    prerequisites_say "installing: $command"
    if ! { "${privilege[@]}" apt-get update --quiet &&
        "${privilege[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --quiet --no-install-recommends "${missing[@]}"; } >&2; then
        prerequisites_say "that failed (see above); type yourself:  apt-get update && $command"
        return 1
    fi
    mapfile -t missing < <(prerequisites_missing "${entries[@]}")
    if [ "${#missing[@]}" -ne 0 ]; then
        prerequisites_say "still missing after the installation: ${missing[*]}"
        return 1
    fi
}

prerequisites_toolchain() {
    local root=$1 wanted found
    wanted=$(sed -n 's/^channel *= *"\(.*\)"$/\1/p' "$root/rust-toolchain.toml")
    if [ -z "$wanted" ]; then
        prerequisites_say "$root/rust-toolchain.toml names no channel"
        return 1
    fi
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
        export PATH
    fi
    if ! command -v cargo >/dev/null; then
        prerequisites_say "Rust is missing; type:  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |" \
            "sh -s -- -y --profile minimal --default-toolchain $wanted"
        return 1
    fi
    # Inside the tree rustup obeys rust-toolchain.toml, and fetches that version where it is missing. Where it
    # cannot (no network, a host that forbids it) an installed toolchain of the same version under another name,
    # "stable" most often, is the same compiler.
    if ! found=$(cd "$root" && rustc --version 2>&1); then
        if ! prerequisites_same_version "$wanted"; then
            prerequisites_say "rustc $wanted does not start: ${found%%$'\n'*}; type:  rustup toolchain install $wanted"
            return 1
        fi
        found=$(cd "$root" && rustc --version)
    fi
    case $found in
        "rustc $wanted "*) ;;
        *)
            prerequisites_say "found $found, this tree is pinned to $wanted; type:  rustup toolchain install $wanted"
            return 1
            ;;
    esac
}

# Selects an installed toolchain whose compiler is the wanted version, whatever its name
prerequisites_same_version() {
    local wanted=$1 name
    command -v rustup >/dev/null || return 1
    while read -r name _; do
        case $(RUSTUP_TOOLCHAIN=$name rustc --version 2>/dev/null) in
            "rustc $wanted "*)
                prerequisites_say "using the installed toolchain $name, which is $wanted"
                export RUSTUP_TOOLCHAIN=$name
                return 0
                ;;
        esac
    done < <(rustup toolchain list)
    return 1
}
