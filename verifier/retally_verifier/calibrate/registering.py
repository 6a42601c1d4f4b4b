"""The command by which the owner of the contracts puts a calibration's hash into the Registry."""

from __future__ import annotations

from pathlib import Path

from retally.chain.deployment import Deployment
from retally.protocol.calibration import Calibration
from retally.protocol.encoding import to_hex

_ZERO = "0x" + "00" * 32
_SIGNATURE = "addCalibration(bytes32,bytes32,bytes32,bytes32,string)"
_SCHEDULE = "schedule(address,uint256,bytes,bytes32,bytes32,uint256)"
_EXECUTE = "execute(address,uint256,bytes,bytes32,bytes32)"


def command_to_register(calibration: Calibration, deployment: Path | None) -> str:
    """Two commands of foundry's cast: propose through the timelock, then carry out after its delay (R-41).

    Without a deployment file the addresses stand as variables of the shell. The file itself has to be public under
    the URI, which is $URI.
    """
    registry, timelock, delay = "$REGISTRY", "$TIMELOCK", "$DELAY"
    if deployment is not None:
        known = Deployment.load(deployment)
        registry, timelock = known.address("Registry"), known.address("Timelock")
        delay = str(known.parameters.get("Timelock", {}).get("minDelay", delay))
    pair = (calibration.model_id, calibration.node_profile, calibration.verifier_profile)
    words = " ".join(to_hex(each) for each in (calibration.hash, *pair))
    call = f'DATA=$(cast calldata "{_SIGNATURE}" {words} "$URI")'
    send = "cast send --rpc-url $RPC --account owner"
    return "\n".join(
        (
            call,
            f'{send} {timelock} "{_SCHEDULE}" {registry} 0 $DATA {_ZERO} {_ZERO} {delay}',
            f"# {delay} seconds later",
            f'{send} {timelock} "{_EXECUTE}" {registry} 0 $DATA {_ZERO} {_ZERO}',
        )
    )
