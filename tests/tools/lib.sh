# shellcheck shell=bash disable=SC2034
# Shared by the scripts under tests/ (bash; sourced, never run).
#
# Sets: repo   the checkout
#       state  where everything made on this machine goes (CAIRN_STATE, default <checkout>/.cairn)

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
state=${CAIRN_STATE:-$repo/.cairn}

# Tools of the system administrator are not on everybody's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Run a command silently; if it fails, show the end of what it said.
#   logged FILE COMMAND...
logged() {
    local log=$1
    shift
    mkdir -p "$(dirname "$log")"
    "$@" >"$log" 2>&1 && return
    local rc=$?
    printf '%s: failed (%s): %s\nlast lines of %s:\n' "${0##*/}" "$rc" "$*" "$log" >&2
    tail -n 25 "$log" | sed 's/^/  | /' >&2
    return "$rc"
}

# The hash, in 16 digits, of everything on standard input.
short_hash() {
    sha256sum | cut -c 1-16
}

# Where this machine's own apt fetches from: lines of "<suite> <address>". Asks what an update would
# fetch, which reads every form of sources file, and needs neither a network nor an earlier update.
apt_sources() {
    apt-get update --print-uris | sed -n "s|^'\(.*\)/dists/\(.*\)/InRelease' .*|\2 \1|p"
}

# The first address of a suite in such lines on standard input; nothing if there is none.
#   apt_sources | address_of bookworm
address_of() {
    awk -v suite="$1" '$1 == suite && !found { print $2; found = 1 }'
}

# The mirror of Debian proper in such lines: where this system's own release comes from.
debian_mirror() {
    local codename address
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    address=$(address_of "$codename")
    [ -n "$address" ] || die "apt has no source for '$codename': is this Debian? see /etc/apt/sources.list"
    printf '%s\n' "$address"
}

# Sets `apt`: an apt-get that knows nothing but Debian sid and keeps whatever it knows in a folder. The system's own apt
# is neither changed nor told.
#   private_apt FOLDER
private_apt() {
    local folder=$1 keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    command -v apt-get >/dev/null || die "needs apt-get (Debian)"
    [ -e "$keyring" ] || die "$keyring is missing: install debian-archive-keyring"
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/debs"
    mirror=$(apt_sources | debian_mirror)
    echo "deb [signed-by=$keyring] $mirror sid main" >"$folder/sources.list"
    : >"$folder/status"
    apt=(apt-get -q
        -o "Dir::Etc::SourceList=$folder/sources.list"
        -o "Dir::Etc::SourceParts=/dev/null"
        -o "Dir::State::Lists=$folder/lists"
        -o "Dir::State::Status=$folder/status"
        -o "Dir::Cache=$folder/cache"
        -o "Acquire::Languages=none"
        # apt's own user cannot write into a folder under somebody's home
        -o "APT::Sandbox::User=root")
}
