"""Documents in libvirt's form for hardware that isn't here; written by hand, small."""

# Two sockets with two cells, two cores each with two threads; CPU 7 is offline; huge pages in both sizes.
INTEL = """
<capabilities>
  <host>
    <cpu>
      <arch>x86_64</arch>
      <model>Cascadelake-Server</model>
      <vendor>Intel</vendor>
      <topology sockets='1' dies='1' cores='2' threads='2'/>
      <feature name='vmx'/>
      <feature name='pdpe1gb'/>
    </cpu>
    <topology>
      <cells num='2'>
        <cell id='0'>
          <memory unit='KiB'>8388607</memory>
          <pages unit='KiB' size='4'>1048576</pages>
          <pages unit='KiB' size='2048'>1024</pages>
          <pages unit='KiB' size='1048576'>2</pages>
          <cpus num='4'>
            <cpu id='0' socket_id='0' die_id='0' core_id='0' siblings='0,4'/>
            <cpu id='1' socket_id='0' die_id='0' core_id='1' siblings='1,5'/>
            <cpu id='4' socket_id='0' die_id='0' core_id='0' siblings='0,4'/>
            <cpu id='5' socket_id='0' die_id='0' core_id='1' siblings='1,5'/>
          </cpus>
        </cell>
        <cell id='1'>
          <memory unit='KiB'>8388608</memory>
          <pages unit='KiB' size='4'>2097152</pages>
          <pages unit='KiB' size='2048'>0</pages>
          <pages unit='KiB' size='1048576'>0</pages>
          <cpus num='4'>
            <cpu id='2' socket_id='1' die_id='0' core_id='0' siblings='2,6'/>
            <cpu id='3' socket_id='1' die_id='0' core_id='1' siblings='3,7'/>
            <cpu id='6' socket_id='1' die_id='0' core_id='0' siblings='2,6'/>
            <cpu id='7'/>
          </cpus>
        </cell>
      </cells>
    </topology>
  </host>
  <guest>
    <os_type>hvm</os_type>
    <arch name='i686'><wordsize>32</wordsize><domain type='qemu'/><domain type='kvm'/></arch>
  </guest>
  <guest>
    <os_type>hvm</os_type>
    <arch name='x86_64'><wordsize>64</wordsize><domain type='qemu'/><domain type='kvm'/></arch>
  </guest>
</capabilities>"""

# One socket, two cells in it (NPS2), a third cell of memory only; no threads.
AMD = """
<capabilities>
  <host>
    <cpu>
      <arch>x86_64</arch><model>EPYC-Rome</model><vendor>AMD</vendor>
      <topology sockets='1' dies='1' cores='2' threads='1'/>
      <feature name='svm'/>
    </cpu>
    <topology>
      <cells num='3'>
        <cell id='0'><memory>4194304</memory><cpus num='1'><cpu id='0' socket_id='0' siblings='0'/></cpus></cell>
        <cell id='1'><memory>4194304</memory><cpus num='1'><cpu id='1' socket_id='0' siblings='1'/></cpus></cell>
        <cell id='2'><memory unit='KiB'>1048576</memory><cpus num='0'/></cell>
      </cells>
    </topology>
  </host>
</capabilities>"""

# No model name, no cells, features as the kernel calls them.
AARCH64 = """
<capabilities>
  <host>
    <cpu>
      <arch>aarch64</arch>
      <topology sockets='1' dies='1' cores='4' threads='1'/>
      <feature name='asimd'/><feature name='crc32'/><feature name='fp'/><feature name='unheard-of'/>
    </cpu>
  </host>
  <guest><os_type>hvm</os_type><arch name='aarch64'><domain type='kvm'/></arch></guest>
  <guest><os_type>hv</os_type><arch name='AMD64'><domain type='xapi'/></arch></guest>
</capabilities>"""


def pci_document(
    *,
    address: str = "0000:01:00.0",
    pci_class: str | None = "0x020000",
    vendor: str = "0x8086",
    product: str = "0x1572",
    inner: str = "",
) -> str:
    """Write a PCI node device document."""
    domain, bus, slot_function = address.split(":")
    slot, function = slot_function.split(".")
    numbers = [int(part, 16) for part in (domain, bus, slot, function)]
    name = "pci_" + address.replace(":", "_").replace(".", "_")
    return f"""
    <device>
      <name>{name}</name>
      <path>/sys/devices/pci0000:00/{address}</path>
      <parent>computer</parent>
      <capability type='pci'>
        {f"<class>{pci_class}</class>" if pci_class else ""}
        <domain>{numbers[0]}</domain><bus>{numbers[1]}</bus><slot>{numbers[2]}</slot><function>{numbers[3]}</function>
        <product id='{product}'>a product</product>
        <vendor id='{vendor}'>a vendor</vendor>
        {inner}
      </capability>
    </device>"""


VIRTUAL_FUNCTIONS = """
<capability type='virt_functions' maxCount='64'>
  <address domain='0x0000' bus='0x01' slot='0x02' function='0x0'/>
</capability>
<numa node='1'/>"""

PHYSICAL_FUNCTION = """
<capability type='phys_function'>
  <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
</capability>
<numa node='1'/>"""


def domain_document(
    inner: str, *, memory: str = "<memory unit='KiB'>1048577</memory>", vcpu: str = "<vcpu>4</vcpu>"
) -> str:
    """Write a domain document."""
    return f"<domain type='kvm'><name>a</name>{memory}{vcpu}{inner}</domain>"
