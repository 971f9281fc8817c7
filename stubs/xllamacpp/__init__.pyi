# What ExecutionKit uses of xllamacpp, which ships no types: partial by intent, held to it by stubtest.

from typing import Self, final

@final
class CpuParams:
    def __init__(self, /, *args: object, **kwargs: object) -> None: ...
    n_threads: int

@final
class CommonParamsModel:
    def __init__(self, /, *args: object, **kwargs: object) -> None: ...
    path: str

@final
class CommonParams:
    cache_prompt: bool
    cache_ram_mib: int
    chat_template: str
    cpuparams: CpuParams
    cpuparams_batch: CpuParams
    endpoint_props: bool
    fit_params: bool
    model: CommonParamsModel
    n_ctx: int
    n_parallel: int
    n_threads_http: int
    ui: bool
    verbosity: int
    warmup: bool

@final
class Server:
    def __new__(cls, common_params: CommonParams) -> Self: ...
    @property
    def listening_address(self) -> str: ...
