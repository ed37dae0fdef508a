// @ts-check
/*
 * Uploads files from the browser to an OSS bucket, under policies that the server signs. Draws
 * nothing and needs nothing: put it under a page of your own, as page.js does.
 *
 *   const show = ({ name, state, loaded, error }) => console.log(name, state, loaded, error);
 *   const uploader = createUploader({ server: 'https://upload.example.com', onchange: show });
 *   input.onchange = () => uploader.add(input.files);
 *
 * An upload is `done` only when OSS answered 200 and, where the policy asks for a callback, with
 * the callback server's JSON. What the network says is data: never evaluated, never made HTML.
 */

/**
 * @typedef {'waiting'|'signing'|'uploading'|'verifying'|'done'|'failed'|'cancelled'} State
 *
 * @typedef {object} Upload
 * @property {File} file
 * @property {string} name    to show: the file's name, or its path in the chosen folder
 * @property {string} target  what `${filename}` in the policy's key stands for
 * @property {string} key     the object's key, once there is a policy
 * @property {State} state
 * @property {number} loaded  bytes sent
 * @property {number} rate    bytes per second, 0 if unknown
 * @property {number} left    seconds left, Infinity if unknown
 * @property {number} tries   automatic tries after the first
 * @property {''|'retry'|'offline'} pause  what it waits for when it was interrupted
 * @property {Trouble|null} error  why it failed or was interrupted
 * @property {any} answer     the callback server's, undefined without callback
 *
 * @typedef {object} Trouble
 * @property {string} code    OSS's, or one of ours: NetworkError, NoAnswer, NotAllowed,
 *   PolicyExpired, PolicyMismatch, ServerError, ServerGone, Stalled, Unexpected, Unreadable,
 *   WrongType
 * @property {number} [status]   of the HTTP answer
 * @property {string} [message]  OSS's own words
 * @property {string} [ec]       OSS's number for the cause
 * @property {string} [requestId]
 * @property {number} [limit]    in bytes, where the file breaks one
 * @property {boolean} [refused] found before anything was sent; to try again is no use
 * @property {boolean} [stored]  the object is in the bucket all the same
 * @property {boolean} [again]   may pass by itself, so it is tried again
 *
 * @typedef {{min: number, max: number, types: [string, string|string[]][]}} Limits
 *   bytes, and the policy's conditions on the content type: operator and operand
 * @typedef {{url: string, fields: Record<string, string>, limits: Limits, until: number}} Policy
 * @typedef {{stop: AbortController, wake: () => void}} Job
 *
 * @typedef {object} Options
 * @property {string} [server]   the server's address, no slash at the end
 * @property {string} [path]     where it answers with a policy
 * @property {() => string|Promise<string>} [ticket]  to be sent as `Authorization: Bearer`
 * @property {(upload: Upload) => void} [onchange]  called after each change of an upload
 * @property {number} [parallel] uploads at a time
 * @property {number} [retries]  automatic tries after the first (never after 4xx)
 * @property {number} [backoff]  milliseconds before the first of them, doubled for each next one
 * @property {number} [stall]    milliseconds without progress until a try is given up
 */

/** @param {Options} [given] */
function createUploader(given) {
	'use strict';

	/** @type {Required<Options>} */
	const options = {
		server: '',
		path: '/get_post_signature_for_oss_upload',
		ticket: () => '',
		onchange: () => {},
		parallel: 3,
		retries: 8,
		backoff: 1000,
		stall: 30_000,
		...given,
	};
	const MAX_OBJECT_BYTES = 5 * 2 ** 30;
	const MAX_PAUSE = 30_000;
	/** V4 dates may be 15 minutes off, so no policy is kept longer, whatever its expiry. */
	const MAX_POLICY_SECONDS = 600;
	/** A fresh policy cures these: tried once more at once. */
	const CURABLE = ['PolicyExpired', 'RequestTimeTooSkewed', 'SecurityTokenExpired'];
	/** Which state may follow which. @type {Record<State, State[]>} */
	const FOLLOWS = {
		waiting: ['signing', 'failed', 'cancelled'],
		signing: ['uploading', 'waiting', 'failed', 'cancelled'],
		uploading: ['verifying', 'waiting', 'done', 'failed', 'cancelled'],
		verifying: ['waiting', 'done', 'failed', 'cancelled'],
		done: [],
		failed: ['waiting'],
		cancelled: ['waiting'],
	};

	/** @type {Upload[]} */
	const uploads = [];
	/** What is at work, through all its automatic tries. @type {Map<Upload, Job>} */
	const jobs = new Map();
	/** @type {Policy|null} */
	let current = null;
	/** @type {Promise<Policy>|null} */
	let asking = null;

	addEventListener('online', () => jobs.forEach((job) => job.wake()));

	/** @param {Upload} upload @param {State} state @param {Partial<Upload>} [more] */
	function enter(upload, state, more) {
		if (!FOLLOWS[upload.state].includes(state)) throw Error(`${upload.state} to ${state}`);
		Object.assign(upload, { pause: '', rate: 0, left: Infinity }, more, { state });
		options.onchange(upload);
	}

	/** Starts what waits while there is a place. A paused upload keeps its own: when the bucket is
	 * away, the rest of the queue need not find out one by one. */
	function fill() {
		for (const upload of uploads) {
			if (jobs.size >= options.parallel) return;
			if (upload.state !== 'waiting' || jobs.has(upload)) continue;
			const job = { stop: new AbortController(), wake: () => {} };
			jobs.set(upload, job);
			run(upload, job).finally(() => {
				if (jobs.get(upload) === job) jobs.delete(upload);
				fill();
			});
		}
	}

	/** @param {Upload} upload @param {Job} job */
	async function run(upload, job) {
		for (let renewed = false; ; ) {
			try {
				const answer = await attempt(upload, job);
				return enter(upload, 'done', { answer, error: null, loaded: upload.file.size });
			} catch (thrown) {
				if (job.stop.signal.aborted) return;
				const ours = typeof thrown.code === 'string';
				const error = ours ? thrown : { code: 'Unexpected', message: `${thrown}` };
				current = null; // the next try begins with a fresh policy
				if (CURABLE.includes(error.code) && !renewed) {
					renewed = true;
					enter(upload, 'waiting', { loaded: 0 });
				} else if (error.again && upload.tries < options.retries) {
					await pause(upload, job, error);
					if (job.stop.signal.aborted) return;
				} else {
					return enter(upload, 'failed', { error });
				}
			}
		}
	}

	/** Gives the answer or throws a Trouble. @param {Upload} upload @param {Job} job */
	async function attempt(upload, job) {
		enter(upload, 'signing');
		// A file that was moved or changed would look like a network error below.
		await upload.file.slice(0, 1).arrayBuffer().catch(() => {
			throw { code: 'Unreadable', refused: true };
		});
		const policy = await policyInHand();
		job.stop.signal.throwIfAborted();
		// By a function: in a string `$&` and the like would mean something.
		upload.key = policy.fields.key.replaceAll('${filename}', () => upload.target);
		const refusal = refuse(upload, policy.limits);
		if (refusal) throw refusal;
		enter(upload, 'uploading');
		return judge(await send(upload, policy, job), policy);
	}

	/** Until the network is back if it is known to be away, else for a while.
	 * @param {Upload} upload @param {Job} job @param {Trouble} error */
	function pause(upload, job, error) {
		const offline = navigator.onLine === false;
		const longest = Math.min(options.backoff * 2 ** upload.tries, MAX_PAUSE);
		if (!offline) upload.tries += 1;
		enter(upload, 'waiting', { pause: offline ? 'offline' : 'retry', loaded: 0, error });
		return new Promise((resolve) => {
			job.wake = () => resolve(undefined);
			job.stop.signal.addEventListener('abort', job.wake);
			// With jitter, so that those who lost the same server do not all come back at once.
			if (!offline) setTimeout(job.wake, longest * (0.5 + Math.random() / 2));
		});
	}

	/** One that lives through the start of an upload. */
	async function policyInHand() {
		if (current && performance.now() < current.until) return current;
		asking ??= fetchPolicy().finally(() => (asking = null));
		return (current = await asking);
	}

	/** @returns {Promise<Policy>} */
	async function fetchPolicy() {
		const ticket = await options.ticket();
		const asked = performance.now();
		let response, message;
		try {
			response = await fetch(options.server + options.path, {
				cache: 'no-store',
				headers: ticket ? { Authorization: `Bearer ${ticket}` } : {},
				signal: AbortSignal.timeout(options.stall),
			});
			message = await response.text();
		} catch {
			throw { code: 'ServerGone', again: true };
		}
		const { status } = response;
		if (!response.ok) {
			const code = status === 401 || status === 403 ? 'NotAllowed' : 'ServerError';
			throw { code, status, message, again: status >= 500 };
		}
		try {
			const { url, fields, expire, x_oss_date: date } = JSON.parse(message);
			if (!/^https?:/.test(url) || typeof fields.key !== 'string') throw 0;
			// How long it lives by the server's clock alone; not told (V1), it serves one upload.
			const iso = `${date}`.replace(/^(....)(..)(..T..)(..)/, '$1-$2-$3:$4:');
			const life = Math.min(expire - Date.parse(iso) / 1000, MAX_POLICY_SECONDS) || 0;
			const until = asked + (life - Math.min(10, life / 3)) * 1000;
			return { url, fields, limits: limitsOf(fields.policy), until };
		} catch {
			throw { code: 'ServerError', status, message };
		}
	}

	/** @param {string} policy in base64 @returns {Limits} */
	function limitsOf(policy) {
		const bytes = Uint8Array.from(atob(policy), (letter) => letter.charCodeAt(0));
		/** @type {Limits} */
		const limits = { min: 0, max: MAX_OBJECT_BYTES, types: [] };
		for (const condition of JSON.parse(new TextDecoder().decode(bytes)).conditions) {
			const [[operator, field, operand]] = Array.isArray(condition)
				? [condition]
				: Object.entries(condition).map(([name, value]) => ['eq', `$${name}`, value]);
			if (operator === 'content-length-range') Object.assign(limits, { min: field, max: operand });
			else if (`${field}`.toLowerCase() === '$content-type') limits.types.push([operator, operand]);
		}
		return limits;
	}

	/** Why the policy does not allow the file, if so.
	 * @param {Upload} upload @param {Limits} limits @returns {Trouble|undefined} */
	function refuse({ file }, { min, max, types }) {
		const refused = true;
		if (file.size > max) return { code: 'EntityTooLarge', refused, limit: max };
		if (file.size < min) return { code: 'EntityTooSmall', refused, limit: min };
		for (const [operator, operand] of types) {
			const fits =
				operator === 'starts-with'
					? file.type.startsWith(`${operand}`)
					: [operand].flat().includes(file.type) === (operator !== 'not-in');
			if (!fits) return { code: 'WrongType', refused };
		}
	}

	/** The fields as they came with the key filled in, the file last.
	 * @param {Upload} upload @param {Policy} policy */
	function formOf({ file, key }, { fields, limits }) {
		const form = new FormData();
		for (const name in fields) form.append(name, name === 'key' ? key : fields[name]);
		if (limits.types.length && !('Content-Type' in fields)) form.append('Content-Type', file.type);
		// OSS puts this name in the place of `${filename}` in the key. If that is still in it, it is
		// a part of the file's name, and must be put in its own place.
		form.append('file', file, key.includes('${filename}') ? '${filename}' : file.name);
		return form;
	}

	/** @param {Upload} upload @param {Policy} policy @param {Job} job
	 * @returns {Promise<XMLHttpRequest>} */
	function send(upload, policy, { stop: { signal } }) {
		return new Promise((resolve, reject) => {
			const request = new XMLHttpRequest();
			const { size } = upload.file;
			const begin = performance.now();
			let last = begin;
			let average = 0;
			let timer = 0;
			let code = 'Cancelled';
			const abort = () => request.abort();
			/** @param {number} milliseconds */
			const watch = (milliseconds) => {
				clearTimeout(timer);
				timer = setTimeout(() => {
					code = 'Stalled';
					abort();
				}, milliseconds);
			};

			request.upload.onprogress = (event) => {
				// The other fields count as well; they come first.
				const loaded = Math.min(size, event.loaded - (event.total - size));
				if (loaded <= upload.loaded) return;
				watch(options.stall);
				const now = performance.now();
				const spent = Math.max(1, now - last);
				// A moving average over some 3 s, corrected for its start at 0.
				const keep = Math.exp(-spent / 3000);
				average = average * keep + ((loaded - upload.loaded) / spent) * 1000 * (1 - keep);
				const rate = average / (1 - Math.exp((begin - now) / 3000));
				Object.assign(upload, { loaded, rate, left: (size - loaded) / rate });
				last = now;
				options.onchange(upload);
			};
			request.upload.onload = () => {
				// Sent as far as the browser knows, though some may be under way; and OSS calls back.
				watch(2 * options.stall);
				enter(upload, 'verifying', { loaded: size });
			};
			request.onload = () => resolve(request);
			request.onerror = () => reject({ code: 'NetworkError', again: true });
			request.onabort = () => reject({ code, again: true });
			request.onloadend = () => {
				clearTimeout(timer);
				signal.removeEventListener('abort', abort);
			};
			signal.addEventListener('abort', abort);
			watch(options.stall);
			request.open('POST', policy.url);
			request.send(formOf(upload, policy));
		});
	}

	/** The callback server's answer, or undefined if the policy asks for no callback.
	 * @param {XMLHttpRequest} request @param {Policy} policy */
	function judge({ status, responseText: text }, { fields, limits }) {
		if (status >= 200 && status < 300 && status !== 203) {
			if (!fields.callback) return undefined;
			try {
				if (status === 200) return JSON.parse(text);
			} catch {}
			throw { code: 'NoAnswer', status, message: text, stored: true };
		}
		const xml = new DOMParser().parseFromString(text, 'text/xml');
		/** @param {string} name */
		const said = (name) => xml.querySelector(`Error > ${name}`)?.textContent ?? '';
		const message = said('Message');
		let code = said('Code') || (status === 203 ? 'CallbackFailed' : `HTTP ${status}`);
		if (code === 'AccessDenied' && /according to Policy/i.test(message)) {
			code = /expired/i.test(message) ? 'PolicyExpired' : 'PolicyMismatch';
		}
		const limit = { EntityTooLarge: limits.max, EntityTooSmall: limits.min }[code];
		const told = { code, status, message, ec: said('EC'), requestId: said('RequestId') };
		throw { ...told, limit, stored: status === 203, again: status >= 500 };
	}

	/** 24 characters that are hard to mistake, and the suffix. @param {string} name */
	function randomName(name) {
		const letters = 'abcdefghijkmnpqrstuvwxyz23456789';
		const random = [...crypto.getRandomValues(new Uint8Array(24))];
		const suffix = name.lastIndexOf('.') > 0 ? name.slice(name.lastIndexOf('.')) : '';
		return random.map((byte) => letters[byte % 32]).join('') + suffix;
	}

	/** @param {Upload} upload */
	function stop(upload) {
		if (!FOLLOWS[upload.state].includes('cancelled')) return;
		const job = jobs.get(upload);
		jobs.delete(upload);
		enter(upload, 'cancelled');
		job?.stop.abort();
	}

	return {
		/** May be changed at any time, for what starts from then on. */
		options,

		/** What was added and not removed. @type {readonly Upload[]} */
		uploads,

		/** Queues files. `random` keeps only the suffix of a name, `folder` is put before it.
		 * @param {Iterable<File|{file: File, path: string}>|null} files
		 * @param {{random?: boolean, folder?: string}} [naming] */
		add(files, { random = false, folder = '' } = {}) {
			const folders = folder.split('/').filter(Boolean);
			const added = Array.from(files ?? [], (item) => {
				const { file, path } = item instanceof File ? { file: item, path: '' } : item;
				const name = path || file.webkitRelativePath || file.name;
				const target = [...folders, random ? randomName(file.name) : name].join('/');
				return /** @type {Upload} */ ({
					...{ file, name, key: '', state: 'waiting', answer: undefined, error: null },
					...{ loaded: 0, rate: 0, left: Infinity, tries: 0, pause: '' },
					// A form would change line breaks; the rest is no use in a key either.
					target: target.replace(/[\x00-\x1f\x7f]/g, '_'),
				});
			});
			uploads.push(...added);
			for (const upload of added) {
				const error = current && refuse(upload, current.limits);
				if (error) enter(upload, 'failed', { error });
				else options.onchange(upload);
			}
			fill();
			return added;
		},

		/** Stops an upload, or all. @param {Upload} [upload] */
		cancel(upload) {
			(upload ? [upload] : uploads).forEach(stop);
			fill();
		},

		/** Tries an upload again, or all that failed. @param {Upload} [upload] */
		retry(upload) {
			const failed = uploads.filter(({ state, error }) => state === 'failed' && !error?.refused);
			for (const one of upload ? [upload] : failed) {
				if (one.pause) jobs.get(one)?.wake();
				else if (one.state === 'failed' || one.state === 'cancelled') {
					enter(one, 'waiting', { loaded: 0, tries: 0, error: null });
				}
			}
			fill();
		},

		/** Forgets an upload, stopped if need be. @param {Upload} upload */
		remove(upload) {
			uploads.splice(uploads.indexOf(upload) >>> 0, 1);
			stop(upload);
			fill();
		},

		/** What the server's policy allows. */
		limits: async () => (await policyInHand()).limits,

		/** Counts, and sums over what is neither failed nor cancelled. */
		total() {
			const sum = { files: 0, done: 0, failed: 0, active: 0, size: 0, loaded: 0, rate: 0 };
			for (const { state, file, loaded, rate } of uploads) {
				if (state === 'failed') sum.failed += 1;
				if (state === 'failed' || state === 'cancelled') continue;
				sum.files += 1;
				sum[state === 'done' ? 'done' : 'active'] += 1;
				sum.size += file.size;
				sum.loaded += loaded;
				sum.rate += rate;
			}
			return sum;
		},

		/** The files of a drop, those of folders with their paths, for `add`. Call it in the event's
		 * handler: later the list is empty. @param {DataTransfer} transfer */
		async filesOf({ items }) {
			/** @type {{file: File, path: string}[]} */
			const found = [];
			/** @param {any} entry a FileSystemEntry @param {File|null} [file] */
			const walk = async (entry, file) => {
				if (entry?.isDirectory) {
					const reader = entry.createReader();
					for (let some = [0]; some.length; ) {
						some = await new Promise((then) => reader.readEntries(then, () => then([])));
						for (const inner of some) await walk(inner);
					}
				} else {
					const path = file ? '' : entry.fullPath.slice(1);
					file ??= await new Promise((then) => entry.file(then, () => then(null)));
					if (file) found.push({ file, path });
				}
			};
			const files = [...items].filter(({ kind }) => kind === 'file');
			const both = files.map((item) => [item.webkitGetAsEntry?.(), item.getAsFile()]);
			for (const [entry, file] of both) await walk(entry, /** @type {File|null} */ (file));
			return found;
		},
	};
}
