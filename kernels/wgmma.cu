// The layers whose weights stay, by wgmma, for one storage: what sm_90 alone runs. With PR_LSTM_KEEP z is kept for the way back.
#include "common/kernel.cuh"
#include "common/team_wgmma.cuh"
#include "stationary.cuh"

#ifdef PR_LSTM_KEEP
constexpr bool kKeep = true;
#else
constexpr bool kKeep = false;
#endif

STATIONARY(wgmma, Wgmma, kKeep)
