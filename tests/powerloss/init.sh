#!/bin/sh
# Runs as process 1 of a User-Mode Linux whose root is the host's, seen through hostfs: puts the disk on a device that
# logs each write, mounts it, runs the workload, and halts. $HERE is the folder of this recording, a kernel parameter.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
busybox ip link set lo up
for module in dm-mod dm-log-writes; do
    busybox insmod "$(find "/usr/lib/uml/modules/$(uname -r)" -name "$module.ko")"
done

dmsetup --noudevsync create logged --table "0 $(blockdev --getsz /dev/ubda) log-writes /dev/ubda /dev/ubdb" &&
    dmsetup mknodes &&
    mount -t ext4 /dev/mapper/logged "$HERE/disk" &&
    . "$HERE/workload.sh" >"$HERE/output" 2>&1
echo "$?" >"$HERE/status"
busybox umount "$HERE/disk"
dmsetup message logged 0 mark end
dmsetup --noudevsync remove logged
busybox poweroff -f
