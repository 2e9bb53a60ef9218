"""What /proc and /sys of real systems tell of a disk: trees as their kernels show them, in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dbsec.backup.at_rest import volume
from dbsec.backup.at_rest.machine import Machine
from dbsec.backup.at_rest.mounts import below, parse_mountinfo
from dbsec.backup.at_rest.verdict import Seen, Verdict, weakest

LUKS = "CRYPT-LUKS2-8f8d5e8f6b9a40e9bf0114713ba1a9c3-pgdata"
LVM = "LVM-abcDEF"
XTS = "0 209715200 crypt aes-xts-plain64 :64:logon:cryptsetup:x-d0 0 259:1 32768"
Tree = Mapping[str, str]


class Fake:
    """A machine whose /sys and /proc lie in a folder. ``devices`` are name -> (number, files, slaves)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: dict[str, str] = {}
        for made in ("sys/dev/block", "sys/class/block", "sys/devices", "proc/self"):
            (root / made).mkdir(parents=True)

    def device(self, name: str, number: str, files: Tree | None = None, slaves: Sequence[str] = ()) -> None:
        """``parent/name`` is a partition of a disk that was made before."""
        folder = self.root / "sys/devices" / name
        folder.mkdir(parents=True)
        for path, text in (files or {}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text + "\n")
        if slaves:
            (folder / "slaves").mkdir()
        for slave in slaves:
            (folder / "slaves" / Path(slave).name).symlink_to(self.root / "sys/devices" / slave)
        (self.root / "sys/dev/block" / number).symlink_to(folder)
        (self.root / "sys/class/block" / folder.name).symlink_to(folder)

    def dmi(self, **told: str) -> None:
        folder = self.root / "sys/class/dmi/id"
        folder.mkdir(parents=True)
        for name, text in told.items():
            (folder / name).write_text(text + "\n")

    def swaps(self, *lines: str) -> None:
        (self.root / "proc/swaps").write_text("\n".join(["Filename Type Size Used Priority", *lines]))

    @property
    def machine(self) -> Machine:
        return Machine(self.root / "proc", self.root / "sys", ask=lambda argv: self.said.get(" ".join(argv), ""))

    def look(self, line: str) -> Seen:
        (mount,) = parse_mountinfo(line)
        return volume.of_mount(mount, self.machine)


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def mount(number: str, kind: str = "ext4", source: str = "/dev/x", options: str = "rw") -> str:
    return f"44 27 {number} / /srv rw,relatime shared:1 - {kind} {source} {options}"


def test_mountinfo_is_read_with_its_escapes_and_optional_fields() -> None:
    text = (
        "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue\n"
        "37 36 0:41 / /mnt\\0402/a rw - fuse.gocryptfs /c\\134d rw\nnot a mount\n"
    )
    first, second = parse_mountinfo(text)
    assert (first.point, first.root, first.kind, first.source) == ("/mnt 2", "/mnt1", "ext3", "/dev/root")
    assert (first.number, first.option("errors"), first.option("rw"), first.option("no")) == (
        (98, 0), "continue", "", None,
    )  # fmt: skip
    assert (second.kind, second.source) == ("fuse.gocryptfs", "/c\\d")
    assert below([first, second], "/mnt 2") == [second]
    assert below([first, second], "/") == [first, second]
    assert below([first, second], "/mn") == []


def test_a_plain_partition_is_clear(fake: Fake) -> None:
    fake.device("sda", "8:0", {"device/model": "WDC  X"})
    fake.device("sda/sda1", "8:1", {"partition": "1"})
    seen = fake.look(mount("8:1"))
    assert seen.verdict is Verdict.CLEAR
    assert seen.how == "ext4 on sda1 on sda (WDC X), with nothing that the kernel encrypts"


def test_luks_below_lvm_on_raid_is_found(fake: Fake) -> None:
    for number, disk in enumerate("ab"):
        fake.device(f"sd{disk}", f"8:{number}")
        fake.device(f"dm-{number}", f"253:{number}", {"dm/uuid": LUKS, "dm/name": f"crypt{disk}"}, [f"sd{disk}"])
    fake.device("md0", "9:0", {"md/level": "raid1"}, ["dm-0", "dm-1"])
    fake.device("dm-2", "253:2", {"dm/uuid": LVM, "dm/name": "vg-pg"}, ["md0"])
    fake.said["dmsetup table crypta"] = fake.said["dmsetup table cryptb"] = XTS
    seen = fake.look(mount("253:2", "xfs"))
    assert seen.verdict is Verdict.ENCRYPTED
    assert seen.how == "xfs on LVM 'vg-pg' on RAID1 md0 on LUKS2 'crypta' (aes-xts-plain64)"


def test_half_of_a_volume_group_in_clear_is_clear(fake: Fake) -> None:
    fake.device("sda", "8:0")
    fake.device("sdb", "8:16")
    fake.device("dm-0", "253:0", {"dm/uuid": LUKS, "dm/name": "crypt"}, ["sda"])
    fake.device("dm-1", "253:1", {"dm/uuid": LVM, "dm/name": "vg-pg"}, ["dm-0", "sdb"])
    fake.said["dmsetup table crypt"] = XTS
    seen = fake.look(mount("253:1"))
    assert seen.verdict is Verdict.CLEAR
    assert "partly sdb" in seen.how


@pytest.mark.parametrize(
    ("uuid", "table", "verdict", "told"),
    [
        (LUKS, XTS, Verdict.ENCRYPTED, "LUKS2 'pg' (aes-xts-plain64)"),
        (LUKS, "", Verdict.ENCRYPTED, "whose cipher only root sees"),
        (LUKS, "0 9 crypt cipher_null-ecb - 0 8:0 32768", Verdict.CLEAR, "cipher_null"),
        (LUKS, f"{XTS}\n209715200 9 linear 8:0 0", Verdict.CLEAR, "a part that is linear"),
        ("CRYPT-PLAIN-swap", XTS, Verdict.ENCRYPTED, "plain dm-crypt"),
        ("CRYPT-BITLK-x", XTS, Verdict.ENCRYPTED, "BitLocker"),
        ("CRYPT-VERITY-x", "0 9 verity 1", Verdict.CLEAR, "mapping 'pg' on sda"),
        ("CRYPT-INTEGRITY-x", "", Verdict.CLEAR, "mapping 'pg' on sda"),
        ("mpath-3600", "", Verdict.CLEAR, "mapping 'pg' on sda"),
    ],
    ids=["luks", "not-root", "null-cipher", "reencrypting", "plain", "bitlocker", "verity", "integrity", "multipath"],
)  # fmt: skip
def test_a_mapping_is_judged_by_its_kind_and_its_table(
    fake: Fake, uuid: str, table: str, verdict: Verdict, told: str
) -> None:
    fake.device("sda", "8:0")
    fake.device("dm-0", "253:0", {"dm/uuid": uuid, "dm/name": "pg"}, ["sda"])
    fake.said["dmsetup table pg"] = table
    seen = fake.look(mount("253:0"))
    assert seen.verdict is verdict
    assert told in seen.how


@pytest.mark.parametrize(
    ("dmi", "command"),
    [
        ({"sys_vendor": "Amazon EC2"}, "aws ec2 describe-volumes --volume-ids vol-0123456789abcdef0 "),
        ({"sys_vendor": "Google", "product_name": "Google Compute Engine"}, "gcloud compute disks describe"),
        ({"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"}, "az disk"),
        ({"sys_vendor": "OpenStack Foundation"}, "openstack volume show"),
    ],
    ids=["ec2", "gcp", "azure", "openstack"],
)
def test_a_volume_of_a_cloud_cannot_be_told(fake: Fake, dmi: dict[str, str], command: str) -> None:
    files = {"device/model": "Amazon Elastic Block Store", "device/serial": "vol0123456789abcdef0"}
    fake.device("nvme1n1", "259:0", files)
    fake.dmi(**dmi)
    seen = fake.look(mount("259:0"))
    assert seen.verdict is Verdict.UNKNOWN
    assert "cannot be seen from inside" in seen.how
    assert seen.check.startswith(command)


def test_luks_in_a_cloud_is_encrypted(fake: Fake) -> None:
    fake.dmi(sys_vendor="Amazon EC2")
    fake.device("nvme1n1", "259:0")
    fake.device("dm-0", "253:0", {"dm/uuid": LUKS, "dm/name": "pg"}, ["nvme1n1"])
    assert fake.look(mount("253:0")).verdict is Verdict.ENCRYPTED


@pytest.mark.parametrize(
    ("line", "verdict", "told"),
    [
        (mount("9:9"), Verdict.UNKNOWN, "device 9:9"),
        (mount("0:50", "nfs4", "nas:/pg"), Verdict.UNKNOWN, "another machine"),
        (mount("0:50", "virtiofs", "pg"), Verdict.UNKNOWN, "another machine"),
        (mount("0:50", "fuse.sshfs", "x:"), Verdict.UNKNOWN, "another machine"),
        (mount("0:50", "fuse.encfs", "encfs"), Verdict.UNKNOWN, "a program stores it"),
        (mount("0:50", "newfs", "x"), Verdict.UNKNOWN, "newfs"),
        (mount("0:50", "overlay", "overlay", "rw,upperdir=/var/u,workdir=/w"), Verdict.UNKNOWN, "'/var/u' of the host"),
        (mount("0:50", "ecryptfs", "/l", "rw,ecryptfs_cipher=aes"), Verdict.ENCRYPTED, "ecryptfs (aes)"),
        (mount("0:50", "ecryptfs", "/l", "rw,ecryptfs_cipher=aes,ecryptfs_passthrough"), Verdict.UNKNOWN, "in clear"),
        (mount("0:50", "zfs", "tank/pg"), Verdict.UNKNOWN, "no zfs to ask"),
        (mount("0:50", "ramfs", "none"), Verdict.MEMORY, "ramfs"),
    ],
    ids=["unseen", "nfs", "virtiofs", "sshfs", "encfs", "new", "overlay", "ecryptfs", "passthrough", "zfs", "ramfs"],
)  # fmt: skip
def test_what_is_not_seen_is_never_encrypted(fake: Fake, line: str, verdict: Verdict, told: str) -> None:
    seen = fake.look(line)
    assert seen.verdict is verdict
    assert told in seen.how


@pytest.mark.parametrize(
    ("said", "verdict"),
    [("aes-256-gcm", Verdict.ENCRYPTED), ("off", Verdict.CLEAR), ("-", Verdict.CLEAR), ("", Verdict.UNKNOWN)],
    ids=["on", "off", "old-pool", "no-answer"],
)
def test_zfs_is_asked(fake: Fake, said: str, verdict: Verdict) -> None:
    fake.said["zfs get -H -o value encryption tank/pg"] = said
    assert fake.look(mount("0:50", "zfs", "tank/pg")).verdict is verdict


def test_gocryptfs_must_show_its_ciphertext(fake: Fake, tmp_path: Path) -> None:
    cipher = tmp_path / "cipher"
    line = mount("0:50", "fuse.gocryptfs", str(cipher))
    assert fake.look(line).verdict is Verdict.UNKNOWN, "anybody may call his mount so"
    cipher.mkdir()
    (cipher / "gocryptfs.conf").write_text(json.dumps({"FeatureFlags": ["GCMIV128", "HKDF"]}))
    assert fake.look(line).verdict is Verdict.ENCRYPTED
    (cipher / "gocryptfs.conf").write_text(json.dumps({"FeatureFlags": ["PlaintextNames"]}))
    assert "names in clear" in fake.look(line).how
    (cipher / "gocryptfs.conf").write_text("[]")
    assert fake.look(line).verdict is Verdict.UNKNOWN


def test_btrfs_is_all_of_its_devices(fake: Fake) -> None:
    fake.device("sda", "8:0")
    fake.device("dm-0", "253:0", {"dm/uuid": LUKS, "dm/name": "pg"}, ["sda"])
    devices = fake.root / "sys/fs/btrfs/0-0/devices"
    devices.mkdir(parents=True)
    (devices / "dm-0").touch()
    assert fake.look(mount("0:30", "btrfs", "/dev/dm-0")).verdict is Verdict.ENCRYPTED
    (devices / "sda").touch()
    assert fake.look(mount("0:30", "btrfs", "/dev/dm-0")).verdict is Verdict.CLEAR
    assert fake.look(mount("0:30", "btrfs", "/dev/other")).verdict is Verdict.UNKNOWN


def test_a_loop_is_as_the_file_behind_it(fake: Fake, tmp_path: Path) -> None:
    backing = tmp_path / "disk.img"
    backing.touch()
    (fake.root / "proc/self/mountinfo").write_text(Path("/proc/self/mountinfo").read_text())
    fake.device("loop0", "7:0", {"loop/backing_file": f"{backing} (deleted)"})
    seen = fake.look(mount("7:0"))
    assert f"loop0 over '{backing} (deleted)'" in seen.how
    fake.device("loop1", "7:1", {"loop/backing_file": "/nowhere/at/all"})
    assert fake.look(mount("7:1")).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("", Verdict.MEMORY),
        ("/dev/dm-0 partition 1 0 -2", Verdict.MEMORY),
        ("/dev/zram0 partition 1 0 100", Verdict.MEMORY),
        ("/dev/zram1 partition 1 0 100", Verdict.UNKNOWN),
        ("/dev/sda partition 1 0 -2", Verdict.CLEAR),
        ("/dev/gone partition 1 0 -2", Verdict.UNKNOWN),
    ],
    ids=["none", "encrypted", "zram", "zram-with-a-disk", "clear", "gone"],
)
def test_memory_is_as_good_as_swap(fake: Fake, line: str, verdict: Verdict) -> None:
    fake.device("sda", "8:0")
    fake.device("dm-0", "253:0", {"dm/uuid": "CRYPT-PLAIN-swap", "dm/name": "swap"}, ["sda"])
    fake.device("zram0", "252:0", {"backing_dev": "none"})
    fake.device("zram1", "252:1", {"backing_dev": "/dev/sda"})
    fake.swaps(*([line] if line else []))
    assert fake.look(mount("0:23", "tmpfs", "tmpfs")).verdict is verdict


def test_devices_that_go_round_come_to_an_end(fake: Fake) -> None:
    fake.device("dm-0", "253:0", {"dm/uuid": LVM, "dm/name": "a"}, ["dm-0"])
    assert fake.look(mount("253:0")).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("name", ["nbd0", "rbd1", "drbd0", "dm-9", "md7"])
def test_a_device_whose_parts_are_elsewhere_is_unknown(fake: Fake, name: str) -> None:
    fake.device(name, "43:0")
    assert fake.look(mount("43:0")).verdict is Verdict.UNKNOWN


def test_the_weakest_part_counts() -> None:
    order: list[Verdict] = [Verdict.CLEAR, Verdict.UNKNOWN, Verdict.ENCRYPTED, Verdict.MEMORY]
    for at, verdict in enumerate(order):
        assert weakest([Seen(one, "x") for one in reversed(order[at:])]).verdict is verdict
    assert weakest([]).verdict is Verdict.UNKNOWN
