"""Volumes of a cloud: a guest cannot see whether they are encrypted, but it can name the command that tells."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from dbsec.backup.at_rest.machine import Machine
from dbsec.backup.at_rest.verdict import Seen, Verdict

_AZURE_TAG: Final = "7783-7084-3265-9085-8269-3286-77"  # DMI's chassis asset tag of a machine in Azure
_DMI: Final = ("sys_vendor", "product_name", "chassis_asset_tag", "bios_vendor", "board_asset_tag")
_HYPERVISORS: Final = ("QEMU", "KVM", "VMware", "Xen", "VirtualBox", "Microsoft Corporation Virtual Machine")
_CLOUDS: Final = {
    "Amazon EC2": "aws ec2 describe-volumes --volume-ids {} --query 'Volumes[].[VolumeId,Encrypted,KmsKeyId]'",
    "Google": "gcloud compute disks describe DISK --zone ZONE --format='value(diskEncryptionKey.kmsKeyName)'",
    _AZURE_TAG: "az disk show --ids DISK --query encryption",
    "Alibaba Cloud": "aliyun ecs DescribeDisks",
    "DigitalOcean": "doctl compute volume list",
    "Hetzner": "ask the provider",
    "OpenStack": "openstack volume show VOLUME -c encrypted",
    "Scaleway": "scw block volume list",
    "OracleCloud": "oci bv volume get --volume-id OCID",
}


def seen_disk(machine: Machine, device: Path) -> Seen:
    """Judge a disk with nothing of ours below: clear, unless a cloud may encrypt it where we cannot look."""
    model = " ".join(machine.read(device / "device/model").split())
    name = f"{device.name} ({model})" if model else device.name
    dmi = {key: machine.read(machine.sys / "class/dmi/id" / key) for key in _DMI}
    for mark, command in _CLOUDS.items():
        if mark in " ".join(dmi.values()):
            whose = "Azure" if mark == _AZURE_TAG else mark
            told = f"{name}, a volume of {whose}: its encryption cannot be seen from inside"
            ask = command.format(_volume(machine, device))
            return Seen(Verdict.UNKNOWN, told, str(machine.sys / "class/dmi/id"), ask)
    host = next((one for one in _HYPERVISORS if one in " ".join(dmi.values())), "")
    if host or device.name.startswith(("vd", "xvd")):
        told = f"{name}, clear in this machine; what its host does cannot be seen"
        return Seen(Verdict.CLEAR, told, str(device))
    return Seen(Verdict.CLEAR, f"{name}, with nothing that the kernel encrypts", str(device))


def _volume(machine: Machine, device: Path) -> str:
    """An NVMe volume's serial is its id, without the hyphen. Source: EC2 user guide, EBS volumes and NVMe."""
    found = re.fullmatch(r"vol-?([0-9a-f]+)", machine.read(device / "device/serial").strip())
    return f"vol-{found[1]}" if found else "VOLUME"
